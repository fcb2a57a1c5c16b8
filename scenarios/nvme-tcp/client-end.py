#!/usr/bin/python3
"""Disconnects, also after checks that were cut short."""

import host

host.disconnect()
