"""The users of the load test."""

from uuid import uuid4

from locust import between, task

from geventws.locust import WebSocketUser


class Asker(WebSocketUser):
    """Connects, asks ten times, and leaves."""

    wait_time = between(0.1, 0.5)

    @task
    def ask(self):
        with self.connect("/echo") as ws:
            for _ in range(10):
                ws.request("hello")
                self.wait()


class Member(WebSocketUser):
    """Talks in the room. A message has arrived when it comes back, between those of others."""

    wait_time = between(0.5, 1.5)

    @task
    def talk(self):
        with self.connect("/room") as ws:
            for _ in range(10):
                text = str(uuid4())
                ws.request(text, is_answer=text.__eq__)
                self.wait()


class Listener(WebSocketUser):
    """Listens to the room until the load test stops."""

    @task
    def listen(self):
        with self.connect("/room", name="/room of listeners") as ws:
            for _ in ws:
                pass
