"""Where a ClickHouse server is and who asks it, from a URL whose password may hold any character."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from app.adapters.clickhouse.errors import explain
from app.ports import WarehouseError
from app.secret import SHOWN, Secret
from schemas.tables import DATABASE


@dataclass(frozen=True)
class ClickHouseUrl:
    """A URL taken apart.

    The password is all between the first ``:`` and the last ``@``, so that it may hold ``/``, ``#``, ``?`` and ``@`` as
    they are; ``%`` begins an escape, as in every URL.
    """

    scheme: str
    user: str
    password: Secret
    host: str
    port: int | None
    #: Path and query: a database, and options of the driver.
    rest: str

    @classmethod
    def parse(cls, url: Secret) -> ClickHouseUrl:
        """Take a URL apart; `WarehouseError` says what it lacks, but not what it holds."""
        scheme, is_there, all_else = url.reveal().partition("://")
        if scheme.lower() not in {"http", "https"} or not is_there:
            raise _wrong("it begins with neither http:// nor https://")
        who, _, where = all_else.rpartition("@")
        user, _, password = who.partition(":")
        try:
            parts = urlsplit(f"{scheme.lower()}://{where}")
            port = parts.port
        except ValueError:
            raise _wrong("its port is no number") from None
        if not parts.hostname:
            raise _wrong("it names no host")
        rest = parts.path + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, unquote(user), Secret(unquote(password)), parts.hostname, port, rest)

    @property
    def where(self) -> str:
        """The server, without who asks it."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{name}:{self.port}" if self.port else f"{self.scheme}://{name}"

    def __str__(self) -> str:
        """As people are shown it."""
        who = f"{self.user}:{SHOWN}@" if self.password else f"{self.user}@" if self.user else ""
        return self.where.replace("://", f"://{who}", 1)

    def to_dsn(self) -> str:
        """As the driver takes it."""
        user, password = (quote(text, safe="") for text in (self.user, self.password.reveal()))
        who = f"{user}:{password}@" if user or password else ""
        return self.where.replace("://", f"://{who}", 1) + self.rest

    def hide(self, text: str) -> str:
        """Text of others without the password: a proxy in between may have repeated what it was sent."""
        word = self.password.reveal()
        forms = [base64.b64encode(f"{self.user}:{word}".encode()).decode()]
        if word not in {self.user, DATABASE}:  # those are in every other sentence, and not secret
            forms += [word, quote(word, safe="")]
        for form in forms if word else ():
            text = text.replace(form, SHOWN)
        return text


def explain_of(
    error: Exception, url: ClickHouseUrl | None, where: str, table: str = "", *, reading: bool = False
) -> tuple[WarehouseError, Exception | None]:
    """Explain an error of the driver, and give what may be shown as its cause: nothing that holds the password."""
    said = explain(error, where, table, reading=reading)
    if url is None or url.hide(str(error)) == str(error):
        return said, error
    return WarehouseError(url.hide(str(said)), retryable=said.retryable), None


def _wrong(why: str) -> WarehouseError:
    return WarehouseError(f"STREAMGAUGE_CLICKHOUSE is not http[s]://user:password@host:port: {why}.")
