package main

import "errors"

// errJSON says that a text is not one flat JSON object of the kinds below. It never says why: the answer to the
// client is the same for every malformed body.
var errJSON = errors.New("not a flat JSON object")

// maxMembers bounds an object's members and a list's entries; the largest object in the contract has seven.
const maxMembers = 16

// value is one member's value. Exactly one of the three is meant, as kind says.
type value struct {
	kind    byte // 's', 'n' or 'l'
	text    string
	number  uint64
	entries []string
}

// scanner walks over a JSON text (RFC 8259) restricted to what the exchange needs: one object whose values are
// strings of printable ASCII without escapes, non-negative integers below 2^53, or lists of such strings.
//
// encoding/json is not used: it matches names without regard to case, keeps the last of two equal names, and takes
// invalid UTF-8, so that two readers could understand one text in two ways.
type scanner struct {
	text []byte
	at   int
}

func (s *scanner) skipSpace() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// take skips white space and reports whether the next byte was c; it then stands behind it.
func (s *scanner) take(c byte) bool {
	s.skipSpace()
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
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
	s.skipSpace()
	start := s.at
	var n uint64
	for s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9' {
		n = n*10 + uint64(s.text[s.at]-'0')
		if n >= 1<<53 { // the largest integer every JSON reader keeps exactly
			return 0, errJSON
		}
		s.at++
	}
	digits := s.at - start
	if digits == 0 || digits > 1 && s.text[start] == '0' {
		return 0, errJSON
	}
	return n, nil
}

func (s *scanner) list() ([]string, error) {
	entries := []string{}
	if !s.take('[') {
		return nil, errJSON
	}
	if s.take(']') {
		return entries, nil
	}
	for len(entries) < maxMembers {
		entry, err := s.quoted()
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
		if s.take(']') {
			return entries, nil
		}
		if !s.take(',') {
			break
		}
	}
	return nil, errJSON
}

func (s *scanner) value() (v value, err error) {
	s.skipSpace()
	if s.at == len(s.text) {
		return v, errJSON
	}
	switch s.text[s.at] {
	case '"':
		v.kind = 's'
		v.text, err = s.quoted()
	case '[':
		v.kind = 'l'
		v.entries, err = s.list()
	default:
		v.kind = 'n'
		v.number, err = s.number()
	}
	return v, err
}

func (s *scanner) member(into map[string]value) error {
	name, err := s.quoted()
	if err != nil {
		return err
	}
	if _, there := into[name]; there || !s.take(':') || len(into) == maxMembers {
		return errJSON
	}
	into[name], err = s.value()
	return err
}

// object is a parsed object; its members are taken out one by one, and what is left at the end is unknown.
type object struct {
	members map[string]value
	failed  bool
}

// parseObject reads exactly one object and nothing behind it but white space.
func parseObject(text []byte) (*object, error) {
	s := &scanner{text: text}
	members := map[string]value{}
	if !s.take('{') {
		return nil, errJSON
	}
	for ended := s.take('}'); !ended; {
		if err := s.member(members); err != nil {
			return nil, err
		}
		if ended = s.take('}'); !ended && !s.take(',') {
			return nil, errJSON
		}
	}
	if s.skipSpace(); s.at != len(text) {
		return nil, errJSON
	}
	return &object{members: members}, nil
}

func (o *object) takeKind(name string, kind byte) value {
	v, there := o.members[name]
	if !there || v.kind != kind {
		o.failed = true
	}
	delete(o.members, name)
	return v
}

func (o *object) takeText(name string) string   { return o.takeKind(name, 's').text }
func (o *object) takeList(name string) []string { return o.takeKind(name, 'l').entries }
func (o *object) has(name string) bool          { _, there := o.members[name]; return there }
func (o *object) takeNumber(name string) uint64 { return o.takeKind(name, 'n').number }
func (o *object) takeIntIn(name string, lowest, highest uint64) int {
	n := o.takeNumber(name)
	if n < lowest || n > highest {
		o.failed = true
		return 0
	}
	return int(n)
}

// end reports an error if a taken member was missing or of another kind, or if a member was never taken.
func (o *object) end() error {
	if o.failed || len(o.members) != 0 {
		return errJSON
	}
	return nil
}
