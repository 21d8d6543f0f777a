"""One user that does everything once. Then the load test stops, and prints its statistics."""

import json

from locust import HttpUser, events, task
from locust.exception import RescheduleTask

from geventws.locust import WebSocketUser


@events.quitting.add_listener
def report(environment, **_):
    lines = {
        entry.name: [
            entry.num_requests,
            entry.num_failures,
            entry.num_none_requests,
            entry.total_content_length,
        ]
        for entry in environment.stats.entries.values()
        if entry.method == "WS"
    }
    errors = {
        error.name: error.parse_error(error.error) for error in environment.stats.errors.values()
    }
    print("report:", json.dumps([lines, errors]))


class Everything(WebSocketUser, HttpUser):
    def on_start(self):
        self.client.get("/login")
        self.kept = self.connect("/", name="kept", cookies=self.client.cookies.get_dict())

    @task
    def run_all(self):
        try:
            self.measure()
        finally:
            self.environment.runner.quit()

    def measure(self):
        with self.connect("/echo?user=1") as ws:
            assert ws.request("hello") == "hello"
            ws.request("Grüße")
            ws.send(b"other")
            assert ws.request("mine", is_answer=lambda message: message == "mine") == "mine"
            self.fail(lambda: ws.request("say nothing", timeout=0.01))
        with self.connect("/push") as ws:
            assert list(ws) == ["one", "two"]
            assert ws.closed
        with self.connect("/overload") as ws:
            self.fail(ws.receive)
            self.fail(lambda: ws.send("too late"))
        self.fail(lambda: self.connect("/refuse"))
        self.fail(lambda: self.connect("ws://127.0.0.1:9/", name="/nobody"))
        self.kept.request("hello")

    def fail(self, call):
        try:
            call()
        except RescheduleTask:
            return
        raise AssertionError("it did not fail")
