package main

import (
	"errors"
	"io"
	"os"
	"strings"
)

const (
	maxConfigBytes = 64 << 10  // bounds memory; a real file has a few hundred bytes
	maxBodyBytes   = 256 << 20 // a request or an answer is held in RAM as a whole
	maxSeconds     = 24 * 3600
	maxConcurrency = 16 // docs/spec/guest-abi.md, init.conf
)

var errConfig = errors.New("gate.json is not what docs/spec/guest-abi.md says")

// config is gate.json (docs/spec/guest-abi.md): the recipe's part of the gate. It is in the initramfs, so it is measured.
type config struct {
	routes           map[string]bool
	maxRequestBytes  int
	maxResponseBytes int
	seconds          int
	concurrency      int
}

func readConfig(path string) (config, error) {
	file, err := os.Open(path)
	if err != nil {
		return config{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfigBytes+1))
	if err != nil {
		return config{}, err
	}
	return parseConfig(text)
}

func parseConfig(text []byte) (config, error) {
	if len(text) > maxConfigBytes {
		return config{}, errConfig
	}
	o, err := parseObject(text)
	if err != nil {
		return config{}, err
	}
	o.takeIntIn("version", 1, 1)
	routes := o.takeList("routes")
	c := config{
		routes:           map[string]bool{},
		maxRequestBytes:  o.takeIntIn("maxRequestBytes", 0, maxBodyBytes),
		maxResponseBytes: o.takeIntIn("maxResponseBytes", 0, maxBodyBytes),
		seconds:          o.takeIntIn("seconds", 1, maxSeconds),
		concurrency:      o.takeIntIn("concurrency", 1, maxConcurrency),
	}
	for _, route := range routes {
		if !isRoute(route) || c.routes[route] {
			return config{}, errConfig
		}
		c.routes[route] = true
	}
	if len(routes) == 0 {
		return config{}, errConfig
	}
	return c, o.end()
}

// isRoute reports whether path may be a recipe's route: below /v1/, and spelt so that there is one way to write it.
func isRoute(path string) bool {
	rest, found := strings.CutPrefix(path, "/v1/")
	return found && rest != "" && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789-_/") == ""
}
