"""The suite's fuzzing server, told what to run by one JSON argument; Python 2.7 only.

As fuzzing_client.py, for the other side: stdout carries the port and the ids of the chosen cases,
then each case as it finishes. The server ends when a client has asked for the reports.
"""
# ruff: noqa: N802, UP031  camelCase is Twisted's and Autobahn's, and Python 2 has no f-strings

import json
import sys

from autobahntestsuite.fuzzing import FuzzingServerFactory, FuzzingServerProtocol
from fuzzing_client import REPORTED, report, shorten
from twisted.internet import reactor

IDLE_SECONDS = 30  # without a connection; the client must have died


class Protocol(FuzzingServerProtocol):
    """One case: it ends in time, even if the client does nothing."""

    path = None

    def connectionMade(self):
        self.factory.idle_limit.cancel()
        seconds = self.factory.spec["case_seconds"]
        self.case_limit = reactor.callLater(seconds, self.transport.abortConnection)
        FuzzingServerProtocol.connectionMade(self)

    def connectionLost(self, reason):
        if self.case_limit.active():
            self.case_limit.cancel()
        FuzzingServerProtocol.connectionLost(self, reason)
        done = self.path == "/updateReports"
        self.factory.idle_limit = reactor.callLater(0 if done else IDLE_SECONDS, reactor.stop)


class Factory(FuzzingServerFactory):
    protocol = Protocol

    def logCase(self, result):
        FuzzingServerFactory.logCase(self, result)
        report({key: result[key] for key in REPORTED})


def main():
    spec = json.loads(sys.argv[1])
    shorten(spec)
    factory = Factory(spec)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    factory.setSessionParameters(url="ws://127.0.0.1:%d" % port)  # it compares it with Host
    factory.idle_limit = reactor.callLater(IDLE_SECONDS, reactor.stop)
    report({"port": port, "cases": factory.specCases})
    reactor.run()


if __name__ == "__main__":
    main()
