"""Pages opened in a real browser, which a test process starts once."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def _command(folder: Path) -> list[str]:
    return [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-quic", f"--user-data-dir={folder / 'browser'}"),
        "--window-size=1280,2000",
    ]


def browse(page: Path) -> str:
    """The document that ``page`` becomes in three seconds; its console must stay empty.

    Of its own time, which is at an end as soon as it has nothing left to do.
    """
    browser = _browser()
    with browser.tab() as (session, _):
        browser.call("Page.navigate", session, url=page.as_uri())
        browser.evaluate(_LOADED, session)
        browser.call("Emulation.setVirtualTimePolicy", session, policy="advance", budget=3000)
        browser.wait_for("Emulation.virtualTimeBudgetExpired", session)
        (document,) = browser.evaluate("[document.documentElement.outerHTML]", session)
        console = browser.console(session)
    assert console == ()
    return document


@dataclass(frozen=True)
class Visits:
    """What became of a page whose every control was used."""

    requests: tuple[str, ...]  # that came to the network: "POST http://example.invalid/"
    attempts: tuple[str, ...]  # that the page made, whether or not they got so far
    windows: tuple[str, ...]  # that it opened
    clicked: tuple[str, ...]  # "button.modebar-btn Zoom"
    downloads: tuple[Path, ...]
    console: tuple[str, ...]


def clicked_through(page: Path, folder: Path, *, requests: int = 0, downloads: int = 0) -> Visits:
    """Open ``page``, use every control of it, and see what it asks of anybody.

    ``folder`` gets what is downloaded. ``requests`` and ``downloads`` are how many are waited
    for, at most a minute; then one second is for others to come.
    """
    saved = folder / "downloads"
    saved.mkdir()

    def files() -> tuple[Path, ...]:
        return tuple(path for path in saved.iterdir() if path.suffix == ".png")

    browser = _browser()
    with (
        _proxy() as (address, lines),
        # A proxy of its own: what the browser wants for itself takes another way.
        browser.tab(proxyServer=address, proxyBypassList="<-loopback>") as (session, context),
    ):
        browser.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(saved),
            browserContextId=context,
        )
        browser.call("Page.addScriptToEvaluateOnNewDocument", session, source=_HOOKS)
        browser.call("Page.navigate", session, url=page.as_uri())
        clicked = browser.evaluate(_CLICKS, session)
        for _ in range(600):
            if len(lines) >= requests and len(files()) >= downloads:
                break
            time.sleep(0.1)
        time.sleep(1)
        place, *attempts = browser.evaluate("[location.href, ...attempts]", session)
        assert place.partition("#")[0] == page.as_uri(), f"the page was left: {lines}"
        targets = browser.call("Target.getTargets")["targetInfos"]
        return Visits(
            tuple(lines),
            tuple(attempts),
            tuple(
                each["url"]
                for each in targets
                if each.get("browserContextId") == context and "openerId" in each
            ),
            tuple(clicked),
            files(),
            browser.console(session),
        )


@contextmanager
def _proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that notes the request lines it gets and passes none on."""
    lines: list[str] = []

    class Noting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline().decode("latin-1").rpartition(" ")[0]
            if not line:  # a connection opened in advance, and for nothing
                return
            lines.append(line)
            while self.rfile.readline().strip():
                pass
            # After 204 a browser stays on the page, and the rest can be clicked.
            answer = "403 Forbidden" if line.startswith("CONNECT") else "204 No Content"
            self.wfile.write(f"HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Noting) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", lines
        server.shutdown()


class _Browser:
    """A browser that does what it is told: the DevTools protocol over a pipe, in real time."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [
                # It reads from 3 and writes to 4.
                *("sh", "-c", 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2', "sh", *_command(folder)),
                # Clicks are a script's, and its windows are otherwise suppressed unseen.
                *("--remote-debugging-pipe", "--disable-popup-blocking", "about:blank"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._calls, self._read = 0, b""
        self._events: list[dict[str, Any]] = []

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    @contextmanager
    def tab(self, **options: str) -> Iterator[tuple[str, str]]:
        """The session of an empty page, and the context it has for itself, as in a new browser.

        It may be open for five minutes.
        """
        watchdog = threading.Timer(300, self._process.kill)
        watchdog.start()
        self._events.clear()
        try:
            context = self.call("Target.createBrowserContext", **options)["browserContextId"]
            tab = self.call("Target.createTarget", url="about:blank", browserContextId=context)
            session = self.call("Target.attachToTarget", flatten=True, **tab)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable", session)
            yield session, context
            self.call("Target.disposeBrowserContext", browserContextId=context)
        finally:
            watchdog.cancel()

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._message()).get("id") != self._calls:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def evaluate(self, script: str, session: str) -> list[str]:
        how = {"expression": script, "awaitPromise": True, "returnByValue": True}
        done = self.call("Runtime.evaluate", session, **how)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return list(done["result"]["value"])

    def wait_for(self, event: str, session: str) -> None:
        while not self._told(session, event):
            self._events.append(self._message())

    def console(self, session: str) -> tuple[str, ...]:
        """What a developer would see there: what scripts print, errors, and what was refused."""
        return tuple(json.dumps(params) for params in self._told(session, *_CONSOLE))

    def _told(self, session: str, *methods: str) -> list[dict[str, Any]]:
        own = (each for each in self._events if each.get("sessionId") == session)
        return [each["params"] for each in own if each["method"] in methods]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            piece = os.read(self._from.fileno(), 1 << 16)
            assert piece, "the browser is gone"
            self._read += piece
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


_CONSOLE = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


@cache
def _browser() -> _Browser:
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    browser = _Browser(Path(folder.name))
    atexit.register(browser.end)
    return browser


# There before any script of a page.
_HOOKS = """
const attempts = [];
{
  const note = (what, where) => attempts.push(`${what} ${where}`);
  const watch = (owner, name, where = (self, args) => args[0]) => {
    owner[name] = new Proxy(owner[name], {
      apply(target, self, args) {
        note(name, where(self, args));
        return Reflect.apply(target, self, args);
      },
      construct(target, args) {
        note(name, args[0]);
        return Reflect.construct(target, args);
      },
    });
  };
  for (const name of ["open", "fetch", "WebSocket", "EventSource", "Worker"]) watch(window, name);
  watch(navigator, "sendBeacon");
  watch(XMLHttpRequest.prototype, "open", (self, args) => args[1]);
  for (const name of ["submit", "requestSubmit"]) {
    watch(HTMLFormElement.prototype, name, (self) => self.action);
  }
  addEventListener("submit", (event) => note("form", event.target.action), true);
  addEventListener("securitypolicyviolation", (event) => note("refused", event.blockedURI), true);
  // A link that leads out is not followed: the page would be left, with the rest not clicked.
  addEventListener("click", (event) => {
    const link = event.target.closest("a");
    const to = link?.getAttribute("href") ?? link?.getAttribute("xlink:href") ?? "#";
    if (to.startsWith("#") || (link.download && to.startsWith("blob:"))) return;
    note("link", to);
    event.preventDefault();
  }, true);
}
"""
_LOADED = """new Promise((done) => {
  if (document.readyState === "complete") done([]);
  else addEventListener("load", () => done([]));
})"""
_CLICKS = """(async () => {
  const wait = (ms) => new Promise((done) => { setTimeout(done, ms); });
  const all = (selector) => [...document.querySelectorAll(selector)];
  const clicked = [];
  const use = (control) => clicked.push(
    [control.localName, ...control.classList].join(".") + " " +
    (control.getAttribute("aria-label") || control.id || control.textContent));
  const click = async (control) => {
    use(control);
    // An element of a picture has no click().
    control.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    await wait(2);
  };
  const set = async (control, value) => {
    control.value = value;
    control.dispatchEvent(new Event("input", { bubbles: true }));
    control.dispatchEvent(new Event("change", { bubbles: true }));
    await wait(2);
  };
  // A table drawn anew has new buttons in the places of the old.
  const place = (button) => {
    const around = button.closest("[id]") ?? document;
    return `${around.id} ${[...around.querySelectorAll("button")].indexOf(button)}`;
  };

  while (document.readyState !== "complete") await wait(10);
  for (const box of all("input[type=checkbox], summary")) await click(box);
  for (const select of all("select")) {
    use(select);
    for (const option of [...select.options].reverse()) await set(select, option.value);
  }
  for (const input of all("input[type=search], input[type=text]")) {
    use(input);
    for (const value of ["conv", ""]) await set(input, value);
  }
  const done = new Set();
  for (;;) {
    // The last first: what asks before it acts puts the button that acts at the end.
    const button = all("button").findLast((each) => !done.has(place(each)));
    if (!button) break;
    done.add(place(button));
    await click(button);
  }
  for (const link of all("a")) await click(link);
  return clicked;
})()"""
