"""What `local.sh` needs from Python: free ports, Ray's command kept to loopback, and the nodes that are up.

python local.py ports COUNT
python local.py ray ARGUMENTS OF THE RAY COMMAND
python local.py nodes http://127.0.0.1:PORT
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import urllib.request
from pathlib import Path

# Below those that Linux hands to outgoing connections: none of these takes one between the look and the use.
PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on, all different."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


def ray_on_loopback(arguments: list[str]) -> None:
    """Run the `ray` command with 127.0.0.1 meaning just that.

    Ray replaces it by the machine's outer address, and its servers then listen on all interfaces. It knows clusters on
    loopback as well (its way on macOS and Windows), but joins no second node to them.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"  # read on import
    from ray._private import services
    from ray.scripts import scripts

    services.resolve_ip_for_localhost = lambda host: host
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # "no", for the processes that this one starts
    sys.argv = ["ray", *arguments]
    scripts.main()


def alive_nodes(address: str) -> int:
    """Ask the dashboard, as the owner of the token, how many nodes are up."""
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    request = urllib.request.Request(f"{address}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
    except OSError:
        return 0
    return sum(node["state"] == "ALIVE" for node in nodes)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "ports":
        print(*free_ports(int(rest[0])))
    elif verb == "ray":
        ray_on_loopback(rest)
    else:
        print(alive_nodes(rest[0]))
