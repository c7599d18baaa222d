"""The command that serves the page, with nano."""

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed (pip install -e '.[demo]')")


def test_the_command():
    """`deepseek-vl demo` serves the page here alone until it is stopped; a port that is taken is an error."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "deepseek_vl_command", "demo", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            said = [server.stdout.readline(), server.stdout.readline()]
            assert said == ["Loading nano ...\n", f"The page is at http://127.0.0.1:{port}. Ctrl-C ends it.\n"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=20) as answer:
                assert "DeepSeek-VL: nano" in answer.read().decode()
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert result.returncode == 1
            assert "error: " in result.stderr
            assert str(port) in result.stderr
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)
