"""A server with many clients, beside one `generate`: tokens a second, time between tokens, memory over many requests.

    python benchmarks/serving.py graph.sifu                 # 16 clients; a minute or two
    python benchmarks/serving.py graph.sifu --requests 10000

The server is a process of its own; clients are connections of this one. `generate` runs in a process of its own
before and after, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path

PROMPT = "春風"
GENERATE = """
import sys
from sifu_graph import Graph
graph = Graph.open(sys.argv[1])
graph.generate(sys.argv[2], tokens=200, seed=0)
print(graph.generate(sys.argv[2], tokens=int(sys.argv[3]), seed=1, top_p=0.9).tokens_per_s)
"""


def generate_alone(store: Path, prompt: str, tokens: int) -> float:
    """Tokens a second of one `generate`."""
    words = [sys.executable, "-c", GENERATE, str(store), prompt, str(tokens)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


async def complete(port: int, *, stream: bool, **asked: object) -> tuple[int, list[float]]:
    """The tokens that a request generated, and the moments at which parts of the answer came."""
    body = json.dumps({"prompt": PROMPT, "ignore_eos": True, "top_p": 0.9, "stream": stream, **asked}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    moments, parts = [], []
    while part := await reader.read(1 << 16):
        moments.append(time.perf_counter())
        parts.append(part)
    writer.close()
    found = b"".join(parts)
    assert found.startswith(b"HTTP/1.1 200"), found[:200]
    return asked["max_tokens"], moments  # type: ignore[return-value]


async def client(port: int, number: int, requests: int, tokens: int, *, stream: bool) -> tuple[int, list[float]]:
    """One client after another request; the tokens, and the times between parts of streams."""
    total, gaps = 0, []
    for k in range(requests):
        begun = time.perf_counter()
        count, moments = await complete(port, stream=stream, max_tokens=tokens, seed=number * 100_000 + k)
        total += count
        gaps += [later - earlier for earlier, later in zip([begun, *moments], moments, strict=False)]
    return total, gaps


async def many(port: int, clients: int, requests: int, tokens: int, *, stream: bool) -> tuple[float, list[float]]:
    """Tokens a second of all clients together, and the times between parts."""
    begun = time.perf_counter()
    found = await asyncio.gather(*(client(port, k, requests, tokens, stream=stream) for k in range(clients)))
    seconds = time.perf_counter() - begun
    return sum(total for total, _ in found) / seconds, sorted(gap for _, gaps in found for gap in gaps)


def memory_mib(process: int) -> float:
    """Anonymous memory of a process."""
    return int(re.findall(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000, help="short ones, for the memory")
    args = parser.parse_args()
    words = [sys.executable, "-m", "sifu_cli", "serve", "--store", str(args.store), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            address = re.search(r":(\d+)/v1", line)
            assert address, line
            port = int(address[1])
            asyncio.run(many(port, args.clients, 1, 50, stream=False))
            for _ in range(args.rounds):
                alone = generate_alone(args.store, PROMPT, 3000)
                rate, _ = asyncio.run(many(port, args.clients, 3, 300, stream=False))
                again = generate_alone(args.store, PROMPT, 3000)
                usual = (alone + again) / 2
                one, _ = asyncio.run(many(port, 1, 5, 300, stream=False))
                print(
                    f"generate {alone:,.0f} and {again:,.0f} tokens/s; {args.clients} clients {rate:,.0f}: "
                    f"{rate / usual:.2f} times; one client {one:,.0f}: {one / usual:.2f} times"
                )
            rate, gaps = asyncio.run(many(port, args.clients, 2, 300, stream=True))
            p50, p99 = (1000 * gaps[int(len(gaps) * share)] for share in (0.5, 0.99))
            print(f"streams: {rate:,.0f} tokens/s; time between parts p50 {p50:.1f} ms, p99 {p99:.1f} ms")
            before = memory_mib(server.pid)
            each = args.requests // args.clients
            asyncio.run(many(port, args.clients, each, 8, stream=False))
            after = memory_mib(server.pid)
            print(f"memory: {before:.0f} MiB, after {each * args.clients:,} requests {after:.0f} MiB")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
