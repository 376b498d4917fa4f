package main

import "errors"

// errJSON never says why a text was refused: the answer to the client is the same for every malformed body.
var errJSON = errors.New("not a flat JSON object")

// maxMembers bounds an object's members and a list's entries; the largest object in the contract has seven.
const maxMembers = 16

// scanner walks over a JSON text (RFC 8259) restricted to what the exchange needs: one object whose values are
// strings of printable ASCII without escapes, non-negative integers below 2^53, or lists of such strings.
//
// encoding/json is not used: it matches names without regard to case, keeps the last of two equal names, and takes
// invalid UTF-8, so that two readers could understand one text in two ways.
type scanner struct {
	text []byte
	at   int
}

// next skips white space and returns the byte there, or 0 at the end.
func (s *scanner) next() byte {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take steps over the next byte if it is c.
func (s *scanner) take(c byte) bool {
	taken := s.next() == c
	if taken {
		s.at++
	}
	return taken
}

func (s *scanner) quoted() (string, error) {
	if !s.take('"') {
		return "", errJSON
	}
	start := s.at
	for ; s.at < len(s.text); s.at++ {
		c := s.text[s.at]
		if c == '"' {
			s.at++
			return string(s.text[start : s.at-1]), nil
		}
		if c < 0x20 || c > 0x7e || c == '\\' {
			break
		}
	}
	return "", errJSON
}

func (s *scanner) number() (uint64, error) {
	var n uint64
	first := s.next()
	start := s.at
	for ; s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9'; s.at++ {
		n = n*10 + uint64(s.text[s.at]-'0')
		if n >= 1<<53 { // the largest integer every JSON reader keeps exactly
			return 0, errJSON
		}
	}
	if digits := s.at - start; digits == 0 || digits > 1 && first == '0' {
		return 0, errJSON
	}
	return n, nil
}

// sequence reads items between two brackets, with commas between them.
func (s *scanner) sequence(open, end byte, item func() error) error {
	if !s.take(open) {
		return errJSON
	}
	for items := 0; !s.take(end); items++ {
		if items == maxMembers || items > 0 && !s.take(',') {
			return errJSON
		}
		if err := item(); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) value() (any, error) {
	switch s.next() {
	case '"':
		return s.quoted()
	case '[':
		entries := []string{}
		err := s.sequence('[', ']', func() error {
			entry, err := s.quoted()
			entries = append(entries, entry)
			return err
		})
		return entries, err
	}
	return s.number()
}

// object is a parsed object; its members are taken out one by one, and what is left at the end is unknown.
type object struct {
	members map[string]any // string, uint64 or []string
	failed  bool
}

// parseObject reads exactly one object and nothing behind it but white space.
func parseObject(text []byte) (*object, error) {
	s := &scanner{text: text}
	members := map[string]any{}
	err := s.sequence('{', '}', func() error {
		name, err := s.quoted()
		if _, there := members[name]; err != nil || there || !s.take(':') {
			return errJSON
		}
		members[name], err = s.value()
		return err
	})
	if s.next(); err != nil || s.at != len(text) {
		return nil, errJSON
	}
	return &object{members: members}, nil
}

func (o *object) has(name string) bool { _, there := o.members[name]; return there }
func (o *object) expect(holds bool)    { o.failed = o.failed || !holds }

// take removes a member and returns its value; if it is missing or of another kind, end will say so.
func take[T string | uint64 | []string](o *object, name string) T {
	v, right := o.members[name].(T)
	o.expect(right)
	delete(o.members, name)
	return v
}

// takeInt is take for an integer that has bounds.
func takeInt(o *object, name string, lowest, highest uint64) int {
	n := take[uint64](o, name)
	o.expect(lowest <= n && n <= highest)
	return int(n)
}

// end reports an error if something expected did not hold, or if a member was never taken.
func (o *object) end() error {
	if o.failed || len(o.members) != 0 {
		return errJSON
	}
	return nil
}
