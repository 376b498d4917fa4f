//go:build !probe

package main

// defaultAction is for every system call outside the allow-list.
const defaultAction = retKillProcess

const probePath = ""

// probeRoute is there in the probe build only.
var probeRoute func(*server, *connection) answer
