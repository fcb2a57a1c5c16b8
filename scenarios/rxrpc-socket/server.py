#!/usr/bin/python3
"""Sets up the server: listens, then goes to the background; returns once calls are taken."""

import os

import service
from service import rxrpc

import background

listens = background.detach_first()  # the background process has to have the keyring, so it is made there
rxrpc.add_service_key(service.SERVICE, service.SECRET, "lab-service")
sock = rxrpc.listen(os.environ["LAB_SERVER"], service.PORT, service.SERVICE, keyring="lab-service")
listens()
service.serve(sock)
