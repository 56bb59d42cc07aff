"""What `make test` runs: one group after the other, then the minutes of each and one closing line for all."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter

PYTEST = (sys.executable, "-m", "pytest", "-q")
GROUPS = {
    "check": ("make", "--no-print-directory", "check"),
    "integration": (*PYTEST, "-n", "2", "--dist", "loadfile", "-m", "integration and not end_to_end"),
    "end to end": (*PYTEST, "-m", "end_to_end"),
}


def main() -> int:
    """Run every group, also after one that failed; 1 when any did."""
    started, total, minutes, failed = time.monotonic(), Counter[str](), [], []
    for name, command in GROUPS.items():
        print(f"\n--- {name}", flush=True)
        began = time.monotonic()
        code, counts = _run(command)
        total += counts
        failed += [name] if code else []
        minutes.append(f"{name:12} {(time.monotonic() - began) / 60:5.1f} min  {'failed' if code else 'ok'}")
    print("\n" + "\n".join(minutes) + "\n")
    counted = [f"{total[word]} {word}" for word in ("failed", "passed", "skipped", "xfailed", "errors") if total[word]]
    print(f"=== {', '.join(counted) or 'no tests ran'} in {time.monotonic() - started:.2f}s ===")
    return 1 if failed or not total["passed"] else 0


def _run(command: tuple[str, ...]) -> tuple[int, Counter[str]]:
    """Run a command with its output passed on; its exit code, and the counts of pytest's closing line."""
    counts = Counter[str]()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if re.search(r" in \d+\.\d+s\b", line):
                found = re.findall(r"(\d+) (failed|passed|skipped|xfailed|error)", line)
                counts = Counter({word.replace("error", "errors"): int(number) for number, word in found})
    return process.returncode, counts


if __name__ == "__main__":
    sys.exit(main())
