#!/bin/sh
exec /lab/programs/bench/bench tls
