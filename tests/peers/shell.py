"""What the servers among the peers answer a command with."""

import subprocess


def run(command):
    """Standard error if there is any, else standard output, as bytes."""
    process = subprocess.Popen(
        command.decode("utf-8"),
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Reading one pipe to its end and then the other, the process would wait for ever once the second one
    # holds 64 KiB.
    stdout, stderr = process.communicate()
    return stderr or stdout
