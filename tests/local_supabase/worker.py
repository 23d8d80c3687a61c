"""The HTTP side in a process of its own: reads its options from standard input, and ends when that ends."""

from __future__ import annotations

import json
import sys
import threading

from local_supabase.gateway import GatewayOptions, gateway_app
from local_supabase.keys import Keys
from local_supabase.rest import RestOptions
from local_supabase.server import Server, listen


def main() -> None:
    """Serve until standard input is closed, which also happens when the parent dies."""
    given = json.loads(sys.stdin.readline())
    options = given["options"]
    options["keys"], options["rest"] = Keys(**options["keys"]), RestOptions(**options["rest"])
    server = Server(gateway_app(GatewayOptions(**options)))
    bound = listen(given["port"])

    def report() -> None:
        server.ready.wait()
        print(bound.getsockname()[1], flush=True)
        sys.stdin.read()
        server.request_stop()

    threading.Thread(target=report, daemon=True).start()
    server.run([bound])


if __name__ == "__main__":
    main()
