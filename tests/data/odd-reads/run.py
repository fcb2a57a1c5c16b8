#!/usr/bin/env python3
import socket

one, other = socket.socketpair()
one.send(bytes(range(200)))
came = other.recv(99) + other.recv(101)
print("KTAP version 1\n1..1")
print("ok 1 - odd reads" if came == bytes(range(200)) else "not ok 1 - odd reads")
