package main

import (
	"slices"
	"time"
)

// What connections stand in line for. Each place in one is memory that is needed until it is left.
const (
	uploads = iota // a long body comes in
	works          // a recipe's request is whole: its process, and its answer until that is out
	replies        // evidence is asked for, until the answer is out
	quotes         // the TPM
	lines
)

const (
	maxWaiting   = 16                     // in each line
	linePatience = 10 * time.Second       // two lines are below the time a client waits for an answer
	lineCheck    = 100 * time.Millisecond // how soon it shows that somebody falls behind
)

// line gives places to those who had least. It is the table's, and under its lock.
type line struct {
	capacity, held int
	waiting        []*ticket
}

// ticket is one connection's wait; granted says once whether it has the place.
type ticket struct {
	c       *connection
	came    uint64
	granted chan bool
}

// before is the order in which two get their turn. Who wants evidence for the first time comes first, so that loops wait
// for clients; who has evidence comes first with requests. Then the address, and then the connection, that has been
// without a turn longest.
func (t *ticket) before(other *ticket, l int) bool {
	l = turnOf(l)
	first := func(c *connection) bool { return l == quotes && c.last[l] == 0 || l != quotes && c.attested }
	if a, b := first(t.c), first(other.c); a != b {
		return a
	}
	if a, b := t.c.from.last[l], other.c.from.last[l]; t.c.from != other.c.from && a != b {
		return a < b
	}
	if a, b := t.c.last[l], other.c.last[l]; a != b {
		return a < b
	}
	return t.came < other.came
}

// turnOf is the line whose turns count: replies are for those who go on to the TPM.
func turnOf(l int) int {
	if l == replies {
		return quotes
	}
	return l
}

// ask puts a connection in line. Too many there is an answer as well: whose turn would come last is sent away.
func (t *table) ask(c *connection, l int) *ticket {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	c.since = time.Time{}
	k := &ticket{c, t.tick(), make(chan bool, 1)}
	if c.gone { // evicted while its request was read: nobody would give its places back
		k.granted <- false
		return k
	}
	t.lines[l].waiting = append(t.lines[l].waiting, k)
	t.serve(l)
	t.press(l)
	if waiting := t.lines[l].waiting; len(waiting) > maxWaiting {
		last := waiting[0]
		for _, other := range waiting {
			if last.before(other, l) {
				last = other
			}
		}
		t.settle(last, l, false)
	}
	return k
}

// serve gives free places to those who wait.
func (t *table) serve(l int) {
	for q := &t.lines[l]; len(q.waiting) > 0 && q.held < q.capacity; {
		next := q.waiting[0]
		for _, other := range q.waiting {
			if other.before(next, l) {
				next = other
			}
		}
		q.held++
		next.c.holds[l] = true
		if l == turnOf(l) {
			next.c.last[l] = t.tick()
			next.c.from.last[l] = t.clock
		}
		t.settle(next, l, true)
	}
}

// press closes the connection that is most behind with what it has a place for, if somebody waits for that place.
func (t *table) press(l int) {
	var latest *connection
	for c := range t.open {
		if c.holds[l] && t.lateness(c) > 0 && (latest == nil || t.lateness(c) > t.lateness(latest)) {
			latest = c
		}
	}
	if len(t.lines[l].waiting) > 0 {
		t.drop(latest)
	}
}

// settle ends a wait.
func (t *table) settle(k *ticket, l int, granted bool) {
	q := &t.lines[l]
	if i := slices.Index(q.waiting, k); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		k.granted <- granted
	}
}

// release gives up a connection's place.
func (t *table) release(c *connection, l int) {
	if c.holds[l] {
		c.holds[l] = false
		t.lines[l].held--
		t.serve(l)
	}
}

// enter waits for a place in a line; false means that there is none in time.
func (t *table) enter(c *connection, l int) bool {
	k := t.ask(c, l)
	limit, check := time.NewTimer(linePatience), time.NewTicker(lineCheck)
	defer limit.Stop()
	defer check.Stop()
	for {
		select {
		case granted := <-k.granted:
			return granted
		case <-check.C:
			t.locked(func() { t.press(l) })
		case <-limit.C:
			t.locked(func() { t.settle(k, l, false) })
		}
	}
}

// leave gives up places that enter gave.
func (t *table) leave(c *connection, left ...int) {
	t.locked(func() {
		for _, l := range left {
			t.release(c, l)
		}
	})
}
