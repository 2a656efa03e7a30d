"""Has this node leave the cluster before it is taken away: its workers finish their shard and start elsewhere.

    python leave.py                      drain the node now: for a hook that runs before the node or its pod ends
    python leave.py --watch aws          wait for a spot notice of EC2, then drain
    python leave.py --watch gcp          wait for the preemption of a Compute Engine machine, then drain

A watcher that gets SIGTERM (the machine shuts down) drains as well. Needs Ray, and its token, in the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

METADATA = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}
POLL_S = 5.0
"""EC2 gives its notice two minutes ahead, and asks to look every five seconds."""
GCP_NOTICE_S, UNKNOWN_NOTICE_S = 25, 25
"""Compute Engine gives 30 seconds, of which the look takes some."""
REQUEST_TIMEOUT_S, DRAIN_TIMEOUT_S = 5.0, 60.0

# Metadata are this machine's own: no proxy may answer in its place.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, method: str = "GET", **headers: str) -> str | None:
    """The text at a URL of the metadata server; None if there is none, as long as no notice has been given."""
    request = urllib.request.Request(url, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with _OPENER.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
            return str(answer.read(65536).decode())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def notice_aws(base: str, now: Callable[[], float] = time.time) -> int | None:
    """Seconds that are left to a spot instance; None without a notice."""
    token = fetch(f"{base}/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60") or ""
    text = fetch(f"{base}/latest/meta-data/spot/instance-action", X_aws_ec2_metadata_token=token)
    if text is None:
        return None
    ends = datetime.strptime(json.loads(text)["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return max(1, int(ends.timestamp() - now()))


def notice_gcp(base: str) -> int | None:
    """Seconds that are left to a preempted machine; None if it is not being preempted."""
    text = fetch(f"{base}/computeMetadata/v1/instance/preempted", Metadata_Flavor="Google")
    return GCP_NOTICE_S if text is not None and text.strip() == "TRUE" else None


def drain(left_s: int, why: str, address: str | None, node_id: str | None) -> int:
    """Have Ray drain this node; returns the exit code of its command."""
    ray = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    command = [ray or "ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", why]
    command += ["--deadline-remaining-seconds", str(left_s)]
    command += ["--address", address] if address else []
    command += ["--node-id", node_id] if node_id else []
    say(f"{why}: this node leaves, {left_s} s are left")
    try:
        return subprocess.run(command, timeout=DRAIN_TIMEOUT_S, check=False).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"ray drain-node failed: {error}")
        return 1


def watch(cloud: str, base: str, stopped: threading.Event) -> tuple[int, str]:
    """Wait for a notice, or for SIGTERM. A metadata server that does not answer is asked again."""
    silent = False
    while True:
        try:
            left_s = notice_aws(base) if cloud == "aws" else notice_gcp(base)
        except (OSError, ValueError, KeyError) as error:
            left_s = None
            if not silent:
                say(f"{base} does not answer ({error}); asked again every {POLL_S:g} s")
            silent = True
        else:
            silent = False
        if left_s is not None:
            return left_s, f"notice of {cloud}"
        if stopped.wait(POLL_S):
            return UNKNOWN_NOTICE_S, "SIGTERM"


def say(text: str) -> None:
    print(f"leave.py: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watch", choices=METADATA, help="whose notices to wait for")
    parser.add_argument("--address", help="the head's HOST:PORT (default: that of the cluster on this machine)")
    parser.add_argument("--node-id", help="Ray's id of the node (default: the node on this machine)")
    parser.add_argument("--seconds", type=int, default=UNKNOWN_NOTICE_S, help="how long it has, without --watch")
    parser.add_argument("--metadata", metavar="URL", help="another metadata server")
    args = parser.parse_args()
    if args.watch is None:
        return drain(args.seconds, "asked to leave", args.address, args.node_id)
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    left_s, why = watch(args.watch, (args.metadata or METADATA[args.watch]).rstrip("/"), stopped)
    return drain(left_s, why, args.address, args.node_id)


if __name__ == "__main__":
    sys.exit(main())
