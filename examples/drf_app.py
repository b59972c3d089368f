"""
Django REST framework behind doorkey: each method of a view says what it requires.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/drf_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os

from django.conf import settings
from django.core.management import execute_from_command_line
from django.urls import path

import doorkey
from doorkey import OPEN, Principal
from doorkey.adapters.django import requires

DOORKEY = {"door": doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db")), "policy": "PER_ROUTE"}
OURS = ["doorkey.adapters.django.DoorkeyMiddleware"]
REST = {"DEFAULT_AUTHENTICATION_CLASSES": ["doorkey.adapters.drf.ApiKeyAuthentication"], "UNAUTHENTICATED_USER": None}
settings.configure(ALLOWED_HOSTS=["*"], DOORKEY=DOORKEY, MIDDLEWARE=OURS, REST_FRAMEWORK=REST, ROOT_URLCONF=__name__)
from rest_framework import decorators, request, response, views  # noqa: E402  # which read the settings


class Index(views.APIView):
    @requires("messages:read")
    def get(self, request: request.Request) -> response.Response:
        principal: Principal = request.auth  # type: ignore[assignment]
        return response.Response({"workspace": principal.workspace, "livemode": principal.livemode})


healthz = requires(OPEN)(decorators.api_view(["GET"])(lambda request: response.Response({"status": "ok"})))
urlpatterns = [path("", Index.as_view()), path("healthz", healthz)]
if __name__ == "__main__":
    execute_from_command_line(["manage.py", "runserver", "--noreload", os.environ.get("PORT", "8000")])
