"""The control port of the sandbox's Nexi: what it has counted, and which faults it is to play. Loopback only.

`GET /` tells the counts and what is waiting, as JSON. `POST /faults` takes a specification as `faults` has it,
`DELETE /faults` forgets what is waiting, `POST /clock` sets Nexi's clock so many seconds off. Under `/portal` is Nexi's
portal, as `portal` has it.
"""

import json
import math
from typing import Any

from werkzeug import Request, Response

from sandbox.nexi import Nexi
from sandbox.portal import Portal
from sandbox.server import Server

_LOOPBACK = ("127.0.0.1", "localhost")


class Control(Server):
    """A running control port."""

    def __init__(self, nexi: Nexi, portal: Portal, port: int = 0) -> None:
        """Raises OSError when the port is in use."""
        self._nexi = nexi
        self._portal = portal
        super().__init__(self._serve, port)

    def _serve(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        # A page in the developer's browser can reach loopback, but not under a name that it does not have.
        if request.host.rsplit(":", 1)[0] not in _LOOPBACK or "Origin" in request.headers:
            return Response("not for browsers\n", 403)(environ, start_response)
        page = self._portal.answer(request)
        if page is not None:
            return page(environ, start_response)
        try:
            self._obey(request)
        except (ValueError, KeyError) as error:
            return Response(f"{error.args[0]}\n", 400)(environ, start_response)
        answer = {
            "counts": dict(sorted(self._nexi.counts.items())),
            "faults": [str(fault) for fault in self._nexi.faults],
            "clock_offset_seconds": self._nexi.clock_offset,
        }
        response = Response(json.dumps(answer, indent=2) + "\n", content_type="application/json")
        return response(environ, start_response)

    def _obey(self, request: Request) -> None:
        match request.method, request.path:
            case "GET", "/":
                pass
            case "POST", "/faults":
                self._nexi.faults.add(request.get_data(as_text=True))
            case "DELETE", "/faults":
                self._nexi.faults.clear()
            case "POST", "/clock":
                offset = float(request.get_data(as_text=True))
                if not math.isfinite(offset):
                    raise ValueError(f"{offset} is no number of seconds")
                self._nexi.clock_offset = offset
            case _:
                raise KeyError("GET /, POST /faults, DELETE /faults, POST /clock, or the portal: GET /portal")
