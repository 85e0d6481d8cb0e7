"""The rtnetlink and the kubelet of the machines; starting them for each case would be slow."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from e2e.fuzz.machine import Machine
from sriov_textfile.kubelet.podresources import GET_ALLOCATABLE, LIST
from sriov_textfile.simulate.rtnetlink import RtnetlinkServer


class Servers:
    """Servers on sockets in a folder, which answer for one `machine` after another."""

    def __init__(self, folder: Path) -> None:
        self.machine: Machine | None = None
        self.rtnetlink = str(folder / "rtnetlink")
        self.kubelet = str(folder / "kubelet")
        self.no_grpc = str(folder / "no-grpc")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the servers for as long as the context lasts."""
        rtnetlink = RtnetlinkServer(
            self.rtnetlink, lambda *request: self._link(rtnetlink, *request)
        )
        no_grpc = _NoGrpc(self.no_grpc, self)
        threading.Thread(target=no_grpc.serve_forever, daemon=True).start()
        kubelet = self._kubelet()
        try:
            with rtnetlink, no_grpc:
                yield
                rtnetlink.shutdown()
                no_grpc.shutdown()
        finally:
            kubelet.stop(grace=None).wait()

    def _link(self, server: RtnetlinkServer, netdev: str, sequence: int) -> bytes | None:
        server.stray = b""
        machine = self.machine
        reply = machine.host.describe(netdev, sequence) if machine else None
        if machine and reply and netdev in machine.replies:
            return machine.replies[netdev](server, reply)
        return reply

    def _kubelet(self) -> grpc.Server:
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        for name, answer in ((LIST, self._list), (GET_ALLOCATABLE, self._allocatable)):
            service, method = name.strip("/").split("/")
            methods[method] = grpc.unary_unary_rpc_method_handler(answer)
        options = [("grpc.max_send_message_length", -1)]
        server = grpc.server(ThreadPoolExecutor(max_workers=4), options=options)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
        server.add_insecure_port(f"unix:{self.kubelet}")
        server.start()
        return server

    def _list(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        machine = self.machine
        if machine is None:
            return b""
        if machine.kubelet.hangs:
            machine.over.wait()
        if machine.kubelet.status:
            context.abort(machine.kubelet.status, machine.kubelet.details)
        return machine.kubelet.response

    def _allocatable(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        machine = self.machine
        if machine and machine.kubelet.allocatable is None:
            code = machine.random.choice((grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN))
            context.abort(code, "it does not report them")
        return (machine.kubelet.allocatable if machine else None) or b""


class _NoGrpc(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A kubelet that sends a few bytes to each client and closes the connection."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, servers: Servers) -> None:
        super().__init__(path, _NoGrpcConnection)
        self.servers = servers


class _NoGrpcConnection(socketserver.BaseRequestHandler):
    server: _NoGrpc

    def handle(self) -> None:
        machine = self.server.servers.machine
        with contextlib.suppress(OSError):  # The client may have gone.
            self.request.sendall(machine.kubelet.raw if machine else b"")
