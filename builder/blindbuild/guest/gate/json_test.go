package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestObjectsOfTheExchangeAreRead(t *testing.T) {
	o, err := parseObject([]byte(" {\t\"a\" :\r\n\"x/+=\", \"n\":0,\"m\":9007199254740991,\"l\":[\"p\",\"q\"],\"e\":[ ]} "))
	if err != nil {
		t.Fatal(err)
	}
	if take[string](o, "a") != "x/+=" || take[uint64](o, "n") != 0 || take[uint64](o, "m") != 1<<53-1 {
		t.Error("a member has another value")
	}
	if strings.Join(take[[]string](o, "l"), " ") != "p q" || len(take[[]string](o, "e")) != 0 {
		t.Error("a list has other entries")
	}
	if err := o.end(); err != nil {
		t.Error(err)
	}
}

// refusedObjects are texts that some reader somewhere takes.
var refusedObjects = []string{
	``, ` `, `null`, `[]`, `"a"`, `1`, `{`, `}`, `{}{}`, `{} x`, `{,}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1 "b":2}`,
	`{"a":1,"a":2}`, `{"a":1,"a":"1"}`, `{a:1}`, `{'a':1}`, `{"a":'b'}`, `{"a":01}`, `{"a":-1}`, `{"a":+1}`, `{"a":1.0}`,
	`{"a":1e3}`, `{"a":9007199254740992}`, `{"a":99999999999999999999999999}`, `{"a":NaN}`, `{"a":true}`, `{"a":null}`,
	`{"a":{}}`, `{"a":[[]]}`, `{"a":[1]}`, `{"a":["b",]}`, `{"a":["b"`, `{"a":["b" "c"]}`, `{"a":"\u0041"}`, `{"a":"\/"}`,
	"{\"a\":\"\n\"}", "{\"a\":\"\x00\"}", "{\"a\":\"\xff\"}", `{"a":"ä"}`, "{\"a\":\"\x7f\"}", "\ufeff{}", "{\"a\":1}\x00",
	`{"a":1}//`, "{\v\"a\":1}", `{"a":"b`, `{"a`, "\x00{}", "{\x00}",
	`{` + strings.Repeat(`"a":[`, 10000), strings.Repeat(`[`, 10000), strings.Repeat(`{"a":`, 10000),
}

func TestWhateverIsNotAFlatObjectIsRefused(t *testing.T) {
	for _, text := range refusedObjects {
		if _, err := parseObject([]byte(text)); err != errJSON {
			t.Errorf("%.60q: got %v", text, err)
		}
	}
}

func TestMembersAndEntriesAreBounded(t *testing.T) {
	members := `"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"j":1,"k":1,"l":1,"m":1,"n":1,"o":1,"p":1`
	if _, err := parseObject([]byte("{" + members + "}")); err != nil {
		t.Error("sixteen members are allowed")
	}
	if _, err := parseObject([]byte("{" + members + `,"q":1}`)); err != errJSON {
		t.Error("seventeen members are too many")
	}
}

func TestMembersThatAreUnknownMissingOrOfAnotherKindAreErrors(t *testing.T) {
	for _, text := range []string{`{}`, `{"a":1}`, `{"A":"x"}`, `{"a":["x"]}`, `{"a":"x","b":1}`} {
		o, err := parseObject([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		take[string](o, "a")
		if o.end() != errJSON {
			t.Errorf("%s was taken for an object with the text a", text)
		}
	}
}

func TestEveryCutObjectIsRefused(t *testing.T) {
	whole := `{"a":"x","n":12,"l":["p","q"]}`
	for i := range len(whole) {
		if _, err := parseObject([]byte(whole[:i])); err != errJSON {
			t.Errorf("%q: got %v", whole[:i], err)
		}
	}
}

// FuzzObject checks that the standard library, an independent reader, takes whatever this one takes.
func FuzzObject(f *testing.F) {
	for _, text := range refusedObjects {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"version":1,"routes":["/v1/hello"],"seconds":30}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := parseObject(text)
		if err != nil {
			return
		}
		var other map[string]any
		if err := json.Unmarshal(text, &other); err != nil || len(other) != len(o.members) {
			t.Errorf("%q: %v, %d and %d members", text, err, len(o.members), len(other))
		}
	})
}

func TestConfigurationIsStrict(t *testing.T) {
	const right = `{"version":1,"profile":"hpke-quote-v1","routes":["/v1/hello"],"maxRequestBytes":1048576,"maxResponseBytes":1048576,` +
		`"seconds":30,"concurrency":4}`
	c, err := parseConfig([]byte(right))
	if err != nil || c.profile != sealedProfile || !c.routes["/v1/hello"] || c.seconds != 30 || c.concurrency != 4 || c.maxRequestBytes != 1<<20 {
		t.Fatalf("%v %v", c, err)
	}
	for before, after := range map[string]string{
		`"version":1`: `"version":2`, `["/v1/hello"]`: `[]`, `"/v1/hello"`: `"/v1/hello","/v1/hello"`,
		`/v1/hello`: `/healthz`, `v1/hello`: `v1/`, `hello`: `he llo`, `"seconds":30`: `"seconds":0`,
		`"concurrency":4`: `"concurrency":17`, `:1048576,"m`: `:268435457,"m`, `"seconds"`: `"Seconds"`,
		`hpke-quote-v1`: `hpke-quote-v2`, `"hpke-quote-v1"`: `""`, `"profile":"hpke-quote-v1",`: ``, `,"concurrency":4`: ``, `}`: `,"x":1}`,
	} {
		changed := strings.Replace(right, before, after, 1)
		if _, err := parseConfig([]byte(changed)); err == nil || changed == right {
			t.Errorf("%s was accepted", changed)
		}
	}
}
