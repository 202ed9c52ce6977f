// What pages with `common.css` share. A page's own script follows in the same element.
"use strict";

// A readable name: characters that do not print are escaped, a space has a sign.
const visible = (name) => [...name].map((c) => c === " " ? "\u2423" : /[\p{C}\p{Z}]/u.test(c)
  ? "\\u{" + c.codePointAt(0).toString(16) + "}" : c).join("");

function switchScheme() {
  const root = document.documentElement, dark = root.dataset.scheme ? root.dataset.scheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.scheme = dark ? "light" : "dark";
}

