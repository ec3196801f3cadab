"""Pages opened in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
        *("--enable-logging=stderr", "--v=0", "--window-size=1280,2000"),
    ]


def browse(page: Path, folder: Path) -> str:
    """The document that a browser makes of ``page``; its console must stay empty.

    ``folder`` is where the browser keeps its own files.
    """
    done = subprocess.run(
        [*_command(folder), "--virtual-time-budget=3000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


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

    ``requests`` and ``downloads`` are how many are waited for, at most a minute; then one second
    is for others to come.
    """
    saved = folder / "downloads"
    saved.mkdir()

    def files() -> tuple[Path, ...]:
        return tuple(path for path in saved.iterdir() if path.suffix == ".png")

    with _proxy() as (address, lines), _Browser(folder) as browser:
        # A context with a proxy of its own: what the browser wants for itself takes another way.
        context = browser.call(
            "Target.createBrowserContext", proxyServer=address, proxyBypassList="<-loopback>"
        )["browserContextId"]
        browser.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(saved),
            browserContextId=context,
        )
        tab = browser.call("Target.createTarget", url="about:blank", browserContextId=context)
        session = browser.call("Target.attachToTarget", flatten=True, **tab)["sessionId"]
        browser.call("Page.enable", session)
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
            tuple(each["url"] for each in targets if "openerId" in each),
            tuple(clicked),
            files(),
            browser.console(),
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
        self._log = folder / "browser.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    # It reads from 3 and writes to 4.
                    *("sh", "-c", 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2', "sh", *_command(folder)),
                    # Clicks are a script's, and its windows are otherwise suppressed unseen.
                    *("--remote-debugging-pipe", "--disable-popup-blocking", "about:blank"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._watchdog = threading.Timer(300, self._process.kill)
        self._watchdog.start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._calls, self._read = 0, b""

    def __enter__(self) -> _Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._watchdog.cancel()

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._message()).get("id") != self._calls:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def evaluate(self, script: str, session: str) -> list[str]:
        how = {"expression": script, "awaitPromise": True, "returnByValue": True}
        done = self.call("Runtime.evaluate", session, **how)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return list(done["result"]["value"])

    def console(self) -> tuple[str, ...]:
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return tuple(line for line in lines if "CONSOLE" in line)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            piece = os.read(self._from.fileno(), 1 << 16)
            assert piece, "the browser is gone"
            self._read += piece
        message, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


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
