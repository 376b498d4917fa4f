package main

import "strings"

const (
	maxBodyBytes   = 256 << 20 // a request or an answer is held in RAM as a whole
	maxSeconds     = 24 * 3600
	maxConcurrency = 16 // docs/spec/guest-abi.md, init.conf
)

// config is gate.json (docs/spec/guest-abi.md): the recipe's part of the gate. It is in the initramfs, so it is measured.
type config struct {
	profile          string
	routes           map[string]bool
	maxRequestBytes  int
	maxResponseBytes int
	seconds          int
	concurrency      int
}

func parseConfig(text []byte) (config, error) {
	o, err := parseObject(text)
	if err != nil {
		return config{}, err
	}
	takeInt(o, "version", 1, 1)
	routes := take[[]string](o, "routes")
	c := config{
		profile:          take[string](o, "profile"),
		routes:           map[string]bool{},
		maxRequestBytes:  takeInt(o, "maxRequestBytes", 0, maxBodyBytes),
		maxResponseBytes: takeInt(o, "maxResponseBytes", 0, maxBodyBytes),
		seconds:          takeInt(o, "seconds", 1, maxSeconds),
		concurrency:      takeInt(o, "concurrency", 1, maxConcurrency),
	}
	o.expect(bindingLabels[c.profile] != "" && len(routes) > 0)
	for _, route := range routes {
		o.expect(isRoute(route) && !c.routes[route])
		c.routes[route] = true
	}
	return c, o.end()
}

// isRoute reports whether path may be a recipe's route: below /v1/, and spelt so that there is one way to write it.
func isRoute(path string) bool {
	rest, found := strings.CutPrefix(path, "/v1/")
	return found && rest != "" && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789-_/") == ""
}
