#!/usr/bin/python3
import os

os.write(1, b"KTAP version 1\n1..2\n")
os.write(1, bytes(range(256)) * 16 + b"\n")
os.write(1, b"ok 1 - caf\xe9, \xf0\x9f\x90\xa7 and <b>&amp;\x1b[31mred\x1b[0m\n")
os.write(1, b"\x1b]0;a title\x07\xff\xfe\x00 " + b"x" * 100_000 + b"\n")
os.write(1, b"ok 2 - after one line of 100 KB\n")
os.write(2, bytes(range(256)))
