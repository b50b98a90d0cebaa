"""Chromium, told what to do over a pipe (the Chrome DevTools Protocol, https://chromedevtools.github.io/devtools-protocol/).

A page is used as a person does it, by keys, and is read as a screen reader does it, by its accessibility tree.
"""

import base64
import json
import os
import select
import subprocess
import tempfile
import time

# What the browser itself would ask its makers is not the page's.
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-extensions", "--disable-domain-reliability", "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe",
]
PATIENCE = 60
KEYS = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36}


class Browser:
    """One page in a browser of its own, which ends with it."""

    def __init__(self, width, height):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (to_browser, self.send_end), (self.read_end, from_browser) = os.pipe(), os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        script = f'exec chromium "$@" 3<&{to_browser} 4>&{from_browser} 2>/dev/null'
        command = ["bash", "-c", script, "chromium", *FLAGS, f"--user-data-dir={self.profile.name}", f"--window-size={width},{height}"]
        self.process = subprocess.Popen(command, pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.received, self.number, self.session = b"", 0, None
        # What the page said on its console, and whom it asked.
        self.said, self.asked = [], set()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.send_end)
        os.close(self.read_end)
        self.profile.cleanup()

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send_end, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = self.message(deadline)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
        raise AssertionError(f"{method}: no answer")

    def message(self, deadline):
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.read_end], [], [], max(0, deadline - time.monotonic()))
            more = os.read(self.read_end, 1 << 20) if ready else b""
            if not more:
                raise AssertionError("the browser says nothing")
            self.received += more
        one, self.received = self.received.split(b"\0", 1)
        message = json.loads(one)
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.add(parameters["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.said.append(f"{parameters['type']}: {[argument.get('value') for argument in parameters['args']]}")
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.said.append(f"{parameters['entry']['level']}: {parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        return message

    def open(self, url):
        self.call("Page.navigate", url=url)

    def value(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, what, expression, wanted):
        """Waits until a value is as wanted, and gives it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.value(expression)
            if wanted(found):
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: it is {found!r}")
            time.sleep(0.05)

    def press(self, key):
        about = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def tab_to(self, name):
        """Presses Tab until what has the focus is called so."""
        seen = []
        for _ in range(40):
            self.press("Tab")
            focused = self.focused()
            seen.append(focused)
            if focused == name:
                return
        raise AssertionError(f"the keyboard never comes to {name!r}, only to {seen}")

    def focused(self):
        """The accessible name of what has the focus."""
        element = self.call("Runtime.evaluate", expression="document.activeElement")["result"]["objectId"]
        nodes = self.call("Accessibility.getPartialAXTree", objectId=element, fetchRelatives=False)["nodes"]
        return nodes[0].get("name", {}).get("value", "")

    def tree(self):
        return [node for node in self.call("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
