"""
Django behind doorkey: each view says what it requires.

    doorkey init && doorkey workspace provision Acme     # tells the ids of its two test keys
    python examples/django_app.py
    KEY=$(doorkey keys reveal --stdout KEY_ID)           # in another terminal
    curl -u "$KEY:" http://127.0.0.1:8000/
"""

import os

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

import doorkey
from doorkey import OPEN
from doorkey.adapters.django import current_principal, requires


@requires("messages:read")
def index(request: HttpRequest) -> JsonResponse:
    principal = current_principal(request)
    assert principal is not None  # as it is in open views alone
    return JsonResponse({"workspace": principal.workspace, "livemode": principal.livemode})


@requires(OPEN)
def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


urlpatterns = [path("", index), path("healthz", healthz)]
DOORKEY = {"door": doorkey.open(os.environ.get("DOORKEY_STORE", "sqlite:///doorkey.db")), "policy": "PER_ROUTE"}
MIDDLEWARE = ["doorkey.adapters.django.DoorkeyMiddleware"]
settings.configure(ALLOWED_HOSTS=["*"], DOORKEY=DOORKEY, MIDDLEWARE=MIDDLEWARE, ROOT_URLCONF=__name__)

if __name__ == "__main__":
    execute_from_command_line(["manage.py", "runserver", "--noreload", os.environ.get("PORT", "8000")])
