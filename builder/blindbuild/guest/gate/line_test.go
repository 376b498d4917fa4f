package main

import (
	"testing"
	"time"
)

// state is what became of a wait: 'w' still waiting, 'y' granted, 'n' sent away.
func state(k *ticket) byte {
	select {
	case granted := <-k.granted:
		k.granted <- granted
		return map[bool]byte{true: 'y', false: 'n'}[granted]
	default:
		return 'w'
	}
}

func states(all []*ticket) (text string) {
	for _, k := range all {
		text += string(state(k))
	}
	return text
}

func TestTheOrderOfTurns(t *testing.T) {
	for name, form := range map[string]struct {
		line  int
		from  [3]byte // whose connections wait, in the order of arrival
		prior func(f *fakeTable, all []*connection)
		want  [3]int
	}{
		"as they came":                {quotes, [3]byte{1, 1, 1}, func(*fakeTable, []*connection) {}, [3]int{0, 1, 2}},
		"who had no evidence yet":     {quotes, [3]byte{1, 1, 1}, func(f *fakeTable, all []*connection) { f.turn(all[0]) }, [3]int{1, 2, 0}},
		"who had it longest ago":      {quotes, [3]byte{1, 1, 1}, func(f *fakeTable, all []*connection) { f.turn(all[1], all[0], all[2]) }, [3]int{1, 0, 2}},
		"another address":             {quotes, [3]byte{1, 1, 2}, func(f *fakeTable, all []*connection) { f.turn(f.connect(1)) }, [3]int{2, 0, 1}},
		"a new one before an address": {quotes, [3]byte{1, 2, 1}, func(f *fakeTable, all []*connection) { f.turn(all[1], f.connect(1)) }, [3]int{0, 2, 1}},
		"the same for replies":        {replies, [3]byte{1, 1, 1}, func(f *fakeTable, all []*connection) { f.turn(all[0]) }, [3]int{1, 2, 0}},
		"requests with evidence":      {works, [3]byte{1, 1, 1}, func(f *fakeTable, all []*connection) { f.attest(all[2]) }, [3]int{2, 0, 1}},
		"uploads with evidence":       {uploads, [3]byte{1, 1, 1}, func(f *fakeTable, all []*connection) { f.attest(all[1]) }, [3]int{1, 0, 2}},
	} {
		f := newFakeTable(t)
		f.lines[form.line].capacity = 1
		var all []*connection
		for _, address := range form.from {
			all = append(all, f.connect(address))
		}
		form.prior(f, all)
		holder := f.connect(99)
		f.ask(holder, form.line)
		tickets := map[*connection]*ticket{}
		for _, c := range all {
			tickets[c] = f.ask(c, form.line)
		}
		for i, want := range form.want {
			f.leave(holder, form.line)
			holder = all[want]
			if state(tickets[holder]) != 'y' {
				t.Errorf("%s: turn %d was not that of %d", name, i, want)
				break
			}
		}
	}
}

// turn lets connections have the TPM one after another.
func (f *fakeTable) turn(all ...*connection) {
	for _, c := range all {
		f.ask(c, quotes)
		f.leave(c, quotes)
	}
}

func TestALoopIsSentAwayForSomebodyNew(t *testing.T) {
	f := newFakeTable(t)
	var connections []*connection
	for range 1 + maxWaiting {
		connections = append(connections, f.connect(1))
	}
	f.turn(connections...)
	var loops []*ticket
	for _, c := range connections {
		loops = append(loops, f.ask(c, quotes))
	}
	if got := states(loops); got != "y"+string(makeBytes('w', maxWaiting)) {
		t.Fatal(got)
	}
	newcomer := f.ask(f.connect(1), quotes)
	if got := states(loops); got != "y"+string(makeBytes('w', maxWaiting-1))+"n" || state(newcomer) != 'w' {
		t.Error(got)
	}
	if f.leave(loops[0].c, quotes); state(newcomer) != 'y' {
		t.Error("the newcomer is not next")
	}
	for range maxWaiting {
		f.ask(f.connect(1), quotes)
	}
	if late := f.ask(f.connect(1), quotes); state(late) != 'n' {
		t.Error("who comes last of too many has to come again")
	}
}

func makeBytes(b byte, n int) []byte {
	all := make([]byte, n)
	for i := range all {
		all[i] = b
	}
	return all
}

func TestTheSlowestGivesUpItsPlaceToWhoWaits(t *testing.T) {
	f := newFakeTable(t)
	var holders []*connection
	for range f.lines[uploads].capacity {
		c := f.connect(1)
		f.ask(c, uploads)
		c.transfers(300_000_000, time.Hour) // at least 5 MB/s when others wait
		holders = append(holders, c)
	}
	waiting := f.ask(f.connect(1), uploads)
	f.pass(busyPatience + time.Second)
	for i, c := range holders {
		c.progress(4_000_000 + 500_000*i)
	}
	if f.press(uploads); !same(gone(holders), 0) || state(waiting) != 'y' {
		t.Error(gone(holders), state(waiting))
	}
	if f.press(uploads); !same(gone(holders), 0) {
		t.Error("nobody waits any more")
	}
	f.ask(f.connect(1), uploads)
	f.ask(f.connect(1), uploads)
	if !same(gone(holders), 0, 1) {
		t.Error("two were too slow", gone(holders))
	}
}

func TestPlacesAreNeverLostOrGivenTwice(t *testing.T) {
	f := newFakeTable(t)
	a, b := f.connect(1), f.connect(2)
	first, second := f.ask(a, quotes), f.ask(b, quotes)
	f.locked(func() { f.settle(second, quotes, false) }) // out of patience
	if f.locked(func() { f.settle(second, quotes, true) }); states([]*ticket{first, second}) != "yn" {
		t.Error("one answer only")
	}
	f.leave(a, quotes, quotes)
	if f.leave(b, quotes); f.lines[quotes].held != 0 || len(f.lines[quotes].waiting) != 0 {
		t.Error(f.lines[quotes])
	}
	f.ask(a, quotes)
	third := f.ask(b, quotes)
	a.waits(0)
	if f.remove(a); state(third) != 'y' || f.lines[quotes].held != 1 {
		t.Error("a connection that ends leaves its places")
	}
}

func TestWhoWasEvictedMeanwhileGetsNoPlace(t *testing.T) {
	f := newFakeTable(t)
	c := f.connect(1)
	f.remove(c)
	if f.enter(c, works) || f.lines[works].held != 0 || len(f.lines[works].waiting) != 0 {
		t.Error(f.lines[works])
	}
}

func TestEnterWaitsUntilThereIsAPlace(t *testing.T) {
	f := newFakeTable(t)
	a, b := f.connect(1), f.connect(1)
	if !f.enter(a, quotes) {
		t.Fatal("there was a place")
	}
	entered := make(chan bool)
	go func() { entered <- f.enter(b, quotes) }()
	for waiting := 0; waiting == 0; {
		f.locked(func() { waiting = len(f.lines[quotes].waiting) })
	}
	if f.leave(a, quotes); !<-entered {
		t.Error("the place was not given")
	}
}

func TestCapacitiesFollowTheEventLog(t *testing.T) {
	for size, want := range map[int]int{0: maxReplies, 80 * kib: maxReplies, 2800 * kib: 2} {
		if got := capacities(4, size); got != [lines]int{6, 6, want, 1} {
			t.Errorf("%d: %v", size, got)
		}
	}
}
