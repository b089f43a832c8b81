"""The sockets on which the world reaches us: the data port, the sidecar's port, the port of gRPC health. The supervisor holds
them for as long as it lives. Every failure is a BadSetting that names the setting to change."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import socket

from evenkeel.container.environment import Environment
from evenkeel.serve.contract.listen_queue import BACKLOG
from evenkeel.serve.contract.logline import log
from evenkeel.serve.errors import BadSetting

AT_HOME = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what listens everywhere is reached at home
NEXT_PORTS = 10  # that are tried, the first one included
WRONG_PORT = (errno.EADDRINUSE, errno.EACCES)


def listen(host: str, port: int, host_setting: str, port_setting: str) -> socket.socket:
    """A bound, listening TCP socket. Raises BadSetting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as e:
        raise BadSetting(f"cannot listen on {shown(host, port)}: {e.strerror}; {advice(e, host_setting, port_setting)}") from e
    except UnicodeError as e:  # a name that no name server could be asked for
        raise BadSetting(
            f"cannot listen on {shown(host, port)}: it is no address; set {host_setting} to one of this machine"
        ) from e
    return sock


def advice(error: OSError, host_setting: str, port_setting: str) -> str:
    if error.errno == errno.EACCES and not isinstance(error, socket.gaierror):
        return f"ports below 1024 may need a privilege: set {port_setting} to a port above them"
    if error.errno in WRONG_PORT and not isinstance(error, socket.gaierror):
        return f"set {port_setting} to another port"
    return f"set {host_setting} to an address of this machine, or to 0.0.0.0 or :: for all of them"


def shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def warn_if_alone(listener: socket.socket) -> None:
    """Listening on a loopback address, it is reached from this machine, or this container, alone."""
    address = listener.getsockname()[0]
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        log("loopback_only", f"EVENKEEL_HOST is {address}: nobody outside this machine or container reaches the data port",
            level="warning")  # fmt: skip


def listen_sidecar(env: Environment, data_port: int, or_next: bool = False) -> socket.socket:
    """Where the settings say; else, in a pipeline's range of ports, the highest that nobody has. `or_next`: where it was not set
    by hand, one of the next few ports will do. Raises BadSetting."""
    host, first = env.sidecar
    ports, why = list(env.sidecar_ports), "the highest free port of SAGEMAKER_SAFE_PORT_RANGE"
    is_range = len(ports) > 1
    if or_next and not is_range and not env.is_set("EVENKEEL_SIDECAR_ADDRESS"):
        ports, why = list(range(first, first + NEXT_PORTS)), f"the next free port, since {first} is taken"
    for port in ports:
        if port == data_port or port == env.settings.grpc_health_port != 0:
            continue
        try:
            listener = listen(host, port, "EVENKEEL_SIDECAR_ADDRESS", "--page or EVENKEEL_SIDECAR_ADDRESS")
        except BadSetting:
            if len(ports) == 1:
                raise
            continue
        if is_range or port != first:
            log("sidecar_port", f"the sidecar listens on {shown(host, port)}, {why}")
        return listener
    wanted = f"SAGEMAKER_SAFE_PORT_RANGE={env.settings.safe_port_range}" if is_range else f"{ports[0]} to {ports[-1]}"
    raise BadSetting(f"no port of {wanted} is free for the sidecar")


def home_address(listener: socket.socket) -> str:
    """HOST:PORT, as somebody on this machine writes it."""
    host, port = listener.getsockname()[:2]
    return shown("localhost" if host in ("0.0.0.0", "::", "127.0.0.1", "::1") else host, port)


def page_url(listener: socket.socket) -> str:
    """Where somebody on this machine reaches a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http://{shown(AT_HOME.get(host, host), port)}"


def reserve_grpc(host: str, port: int) -> socket.socket | None:
    """Hold the port of gRPC health for every sidecar to come, by a socket that is bound and never listens. Raises
    BadSetting when the port or the package cannot be had."""
    if not port:
        return None
    if importlib.util.find_spec("grpc_health") is None:
        raise BadSetting(f"EVENKEEL_GRPC_HEALTH_PORT={port} needs a package that is missing: pip install 'evenkeel[grpc]'")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as e:
        sock.close()
        raise BadSetting(f"cannot bind {shown(host, port)}: {e.strerror}; set EVENKEEL_GRPC_HEALTH_PORT to another port") from e
    return sock
