"""A Django project with the settings of ``startproject``, and accounts in SQLite."""
