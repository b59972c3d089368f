"""The site behind what others offer: a2wsgi, and what hypercorn and granian have to read the fields of proxies."""

from __future__ import annotations

from typing import Any

from a2wsgi import WSGIMiddleware
from granian.utils.proxies import wrap_asgi_with_proxy_headers
from hypercorn.middleware import ProxyFixMiddleware

from tests.servers import site

_asgi: Any = site.asgi
_wsgi: Any = site.wsgi

bridged: Any = WSGIMiddleware(_wsgi)
by_hypercorn: Any = ProxyFixMiddleware(_asgi)
by_granian: Any = wrap_asgi_with_proxy_headers(_asgi)
