//go:build !probe

package main

const probePath = ""

// probeRoute is there in the probe build only.
var probeRoute func(*server, *connection) answer
