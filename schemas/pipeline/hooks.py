"""Reads the hooks of a pipeline file, and where they may go."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import get_args

from schemas.pipeline.destinations import refuse_url
from schemas.pipeline.expression import ExpressionError
from schemas.pipeline.hook_filter import parse_where
from schemas.pipeline.spec import Destinations, Hook, HookForm, HookSubject, Pipeline
from schemas.pipeline.toml_table import TomlTable

#: Secrets at once: the one in use, and the one that replaces it or is replaced.
_MOST_SECRETS = 2
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?\Z")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")


def read_destinations(top: TomlTable, folder: Path) -> Destinations:
    """The table ``[destinations]``; ``folder``: of the pipeline file."""
    table = top.table("destinations")
    table.allow("hosts", "networks", "plain_http", "ca")
    hosts = table.texts("hosts", ())
    for host in hosts:
        if not _HOST.match(host) and not _is_address(host):
            table.fail("hosts", f'"{host}" is no host; write a name in lower case, "*.example.com", or an address')
    networks = table.texts("networks", ())
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            table.fail("networks", f'"{network}" is no network ({error}); write for example "10.1.0.0/16"')
    ca = None
    if "ca" in table:
        ca = folder / Path(table.text("ca")).expanduser()
        if not ca.is_file():
            table.fail("ca", f"there is no file {ca}; give a PEM file of certificate authorities")
    return Destinations(hosts, networks, table.flag("plain_http", default=False), ca)


def read_hooks(top: TomlTable, pipeline: Pipeline, destinations: Destinations) -> tuple[Hook, ...]:
    """The tables ``[[hooks]]``; ``pipeline``: all that the file says besides."""
    hooks: list[Hook] = []
    for table in top.tables("hooks"):
        name = table.text("name", fix='for example name = "crm"')
        if not _NAME.match(name):
            table.fail("name", f'"{name}" cannot be part of an id; use a-z, 0-9, - and _, at most 64 characters')
        if any(hook.name == name for hook in hooks):
            table.fail("name", f'"{name}" is used by two hooks; rename one')
        hooks.append(_read_hook(table, name, pipeline, destinations))
    return tuple(hooks)


def _read_hook(table: TomlTable, name: str, pipeline: Pipeline, destinations: Destinations) -> Hook:
    on: HookSubject = table.word("on", get_args(HookSubject))
    form: HookForm = table.word("form", get_args(HookForm), "webhook")
    own = {"webhook": ("url", "url_from", "secrets"), "slack": ("url", "url_from"), "kafka": ("topic",)}
    table.allow("name", "on", "form", "where", *own[form])
    hook = Hook(name, on, form, where=_read_where(table, on, pipeline))
    if form == "kafka":
        return Hook(name, on, form, hook.where, topic=_read_topic(table, pipeline))
    url, url_from = _read_url(table, destinations)
    secrets = _read_secrets(table) if form == "webhook" else ()
    return Hook(name, on, form, hook.where, url, url_from, secrets)


def _read_where(table: TomlTable, on: HookSubject, pipeline: Pipeline) -> str:
    if "where" not in table:
        return ""
    if on != "scores":
        table.fail("where", f'is for scores, and this hook is on {on}; remove it, or use on = "scores"')
    where = table.text("where")
    try:
        parse_where(where, pipeline)
    except ExpressionError as error:
        hint = "" if pipeline.publish_features else " (publish_features = false: no features are served)"
        table.fail("where", f"{error}{hint}")
    return where


def _read_url(table: TomlTable, destinations: Destinations) -> tuple[str, str]:
    if ("url" in table) == ("url_from" in table):
        table.fail("url", "give either url, or url_from: the environment variable that holds it")
    if "url_from" in table:
        return "", _check_variable(table, "url_from", table.text("url_from"))
    url = table.text("url")
    if why := refuse_url(destinations, url):
        table.fail("url", why)
    return url, ""


def _read_secrets(table: TomlTable) -> tuple[str, ...]:
    secrets = table.texts("secrets") if "secrets" in table else ()
    if not secrets:
        table.fail("secrets", 'names no environment variable; a webhook is signed, so give for example ["CRM_SECRET"]')
    if len(secrets) > _MOST_SECRETS:
        table.fail("secrets", f"names {len(secrets)}; at most two are in use while one replaces the other")
    return tuple(_check_variable(table, "secrets", name) for name in secrets)


def _check_variable(table: TomlTable, key: str, name: str) -> str:
    if not _VARIABLE.match(name):
        # What is written here may be the secret itself.
        table.fail(key, "must name environment variables, and not hold what is in them; write for example CRM_SECRET")
    return name


def _read_topic(table: TomlTable, pipeline: Pipeline) -> str:
    topic = table.text("topic", fix='for example topic = "high-scores"')
    if not _TOPIC.match(topic):
        table.fail("topic", f'"{topic}" is no name of a topic; use letters, digits, ., _ and -')
    if topic.startswith(f"{pipeline.name}."):
        table.fail("topic", f'"{topic}" is one of the pipeline\'s own; choose a name that does not begin so')
    return topic


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
