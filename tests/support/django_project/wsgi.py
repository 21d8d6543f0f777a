"""The WSGI application, as ``startproject`` writes it, except for the second import."""

import os

from geventws.django import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.support.django_project.settings")

application = get_wsgi_application()
