"""What every page must keep to in every window: each function returns what breaks the rule."""

from __future__ import annotations

from importlib import resources

from browser import Browser

SIZES = ((1280, 800), (768, 1024), (390, 844))
"""A desktop, a tablet and a phone, in pixels."""
OUTSIDE = """(() => {
    const out = [];
    const beyond = document.documentElement.scrollWidth - innerWidth;
    if (beyond > 0) out.push(`the page is ${beyond} pixels wider than the window`);
    for (const section of document.querySelectorAll("section, header, footer")) {
        const card = section.getBoundingClientRect();
        for (const one of section.querySelectorAll("*")) {
            const box = one.getBoundingClientRect();
            if (box.width && (box.right > card.right + 1 || box.left < card.left - 1))
                out.push(section.querySelector("h1, h2")?.id + ": " + one.tagName + " " + one.textContent.slice(0, 30));
        }
    }
    return out;
})()"""
FAINT = """(() => {
    const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parsed = (colour) => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const seen = (colour) => colour !== "none" && (parsed(colour)[3] ?? 1) > 0;
    const behind = (one) => {
        const shapes = one.tagName === "text" ? [...one.parentElement.querySelectorAll("rect, circle")] : [];
        const box = one.getBoundingClientRect();
        let fills = [];
        for (const shape of shapes) {
            const at = shape.getBoundingClientRect(), { fill } = getComputedStyle(shape);
            const apart = at.right <= box.left || at.left >= box.right || at.bottom <= box.top || at.top >= box.bottom;
            if (apart || !seen(fill)) continue;
            if (at.left <= box.left && at.right >= box.right) fills = [];  // it covers what is below it
            fills.push(fill);
        }
        if (fills.length) return fills;
        while (one && !seen(getComputedStyle(one).backgroundColor)) one = one.parentElement;
        return [one ? getComputedStyle(one).backgroundColor : "rgb(255, 255, 255)"];
    };
    const out = [];
    for (const one of document.body.querySelectorAll("*")) {
        const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        const field = one.matches("input[placeholder]");
        if (!(own || field) || !one.getBoundingClientRect().width) continue;
        const style = field ? getComputedStyle(one, "::placeholder") : getComputedStyle(one);
        const colour = one.tagName === "text" ? style.fill : style.color;
        for (const back of behind(one)) {
            const [low, high] = [light(parsed(colour)), light(parsed(back))].sort((a, b) => a - b);
            const contrast = (high + 0.05) / (low + 0.05);
            const what = `${one.tagName} ${one.textContent.slice(0, 20)}`;
            if (contrast < 4.5) out.push(`${what}: ${colour} on ${back}, ${contrast.toFixed(2)}`);
        }
    }
    return out;
})()"""
AXE = """axe.run().then((found) => found.violations.map(
    (rule) => `${rule.id}: ${rule.nodes.length} times, for example ${rule.nodes[0].target.join(" ")}`
))"""


def outside(page: Browser) -> list[str]:
    """Elements that stick out of their card, and a page that is wider than its window."""
    found: list[str] = page.run(OUTSIDE)
    return found


def faint(page: Browser) -> list[str]:
    """Texts whose contrast with what is behind them is below 4.5 : 1 (WCAG 2.1, 1.4.3)."""
    found: list[str] = page.run(FAINT)
    return found


def inaccessible(page: Browser) -> list[str]:
    """What axe-core (https://github.com/dequelabs/axe-core) finds: names, roles, focus, headings, contrast."""
    page.run(f"{(resources.files('axe_core_python') / 'axe.min.js').read_text('utf-8')};0")
    found: list[str] = page.run(AXE)
    return found
