"""The suite's fuzzing client, told what to run by one JSON argument; Python 2.7 only.

stdout carries nothing but JSON lines: the ids of the chosen cases, then each case as it
finishes; what the suite itself prints goes to stderr. The cases are the suite's own. Added
are two time limits that it lacks and, on request, shorter cases in groups 12 and 13.
"""
# ruff: noqa: N802, N803  camelCase is Twisted's and Autobahn's

import json
import sys

from autobahntestsuite import fuzzing
from autobahntestsuite.fuzzing import Cases, FuzzingClientFactory, FuzzingClientProtocol
from twisted.internet import reactor

RESULTS, sys.stdout = sys.stdout, sys.stderr

REPORTED = [
    "id",
    "behavior",
    "behaviorClose",
    "result",
    "resultClose",
    "expected",
    "received",
    "remoteCloseCode",
    "remoteCloseReason",
    "wasNotCleanReason",
]


def report(line):
    RESULTS.write(json.dumps(line) + "\n")
    RESULTS.flush()


class Protocol(FuzzingClientProtocol):
    """One case: it ends in time, even if the server never drops the connection."""

    def connectionMade(self):
        seconds = self.factory.spec["case_seconds"]
        self.case_limit = reactor.callLater(seconds, self.transport.abortConnection)
        FuzzingClientProtocol.connectionMade(self)

    def onCloseFrame(self, code, reasonRaw):
        started_by_server = self.state == self.STATE_OPEN
        stop = FuzzingClientProtocol.onCloseFrame(self, code, reasonRaw)
        if started_by_server and self.state == self.STATE_CLOSING:
            # Autobahn limits its wait for the end of TCP only if it has sent the first Close frame.
            self.serverConnectionDropTimeoutCall = reactor.callLater(
                self.factory.spec["closing_seconds"], self.onServerConnectionDropTimeout
            )
        return stop

    def connectionLost(self, reason):
        if self.case_limit.active():
            self.case_limit.cancel()
        FuzzingClientProtocol.connectionLost(self, reason)


class Factory(FuzzingClientFactory):
    def logCase(self, result):
        FuzzingClientFactory.logCase(self, result)
        report({key: result[key] for key in REPORTED})


def shorten(spec):
    """Let the long cases be as short as was asked for."""
    if spec["messages"]:
        for case in Cases:
            if case.__name__.startswith(("Case12_", "Case13_")):
                case.COUNT = spec["messages"]


def main():
    spec = json.loads(sys.argv[1])
    shorten(spec)
    fuzzing.FuzzingClientProtocol = Protocol  # the factory finds its protocol by this name
    factory = Factory(spec)
    report(factory.specCases)
    if factory.specCases:
        reactor.run()


if __name__ == "__main__":
    main()
