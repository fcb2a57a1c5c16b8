#!/usr/bin/python3
"""Unmaps after checks that were cut short."""

import disk

disk.disconnect()
