package loki

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// slowValue reads an entry the plain way; the fast way must say the same.
func slowValue(b []byte) (e Entry, err error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil {
		return e, err
	}
	if len(parts) < 2 {
		return e, fmt.Errorf("%d parts", len(parts))
	}
	if parts[1][0] != '"' {
		return e, fmt.Errorf("%s is no string", parts[1])
	}
	var ns string
	if err := json.Unmarshal(parts[0], &ns); err != nil {
		return e, err
	}
	if err := json.Unmarshal(parts[1], &e.Line); err != nil {
		return e, err
	}
	n, err := strconv.ParseInt(ns, 10, 64)
	if err != nil {
		return e, err
	}
	e.Time = time.Unix(0, n).UTC()
	if len(parts) > 2 {
		var extra struct{ StructuredMetadata map[string]string }
		if err := json.Unmarshal(parts[2], &extra); err != nil {
			return e, err
		}
		e.Metadata = extra.StructuredMetadata
	}
	return e, nil
}

func FuzzValue(f *testing.F) {
	for _, s := range []string{
		`["1795000000000000001","[sshd] Ban 192.0.2.1"]`, `["1","a\"b\\"]`, `["1","\u00e9\ud83d\ude00é"]`, `[ "1" , "x" , {} ]`,
		`["1","x",{"structuredMetadata":{"a":"b"},"parsed":{"c":"d"}}]`, `["1","x",null]`, `["x","y"]`, `["1"]`, `[]`, `[1,"x"]`, `["1",2]`, `["\u0031","x"]`, `["-5","x"]`,
		"[\"1\",\"\xff\"]", `["1","x",{"structuredMetadata":{"a":1}}]`, `{}`, `null`, `"x"`, `["99999999999999999999","x"]`, `["1","x",{},{}]`, `[null,"x"]`, `["1",null]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			t.Skip()
		}
		samePlain(t, b)
	})
}

// samePlain compares the two ways of reading one entry.
func samePlain(t interface{ Fatalf(string, ...any) }, b []byte) {
	want, wantErr := slowValue(b)
	d := &decoder{}
	err := d.values(fmt.Appendf(nil, "[%s, %s]", b, b), nil)
	got := d.entries
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%q: %v, the plain way %v", b, err, wantErr)
	}
	if err == nil && !cmp.Equal(got, []Entry{want, want}) {
		t.Fatalf("%q: %+v, the plain way %+v", b, got, want)
	}
}

// BenchmarkDecode reads a page of one stream, and one of 50, in both forms.
func BenchmarkDecode(b *testing.B) {
	const lines = 5000
	for _, streams := range []int{1, 50} {
		json, proto := pageOf(lines, streams)
		for name, body := range map[string][]byte{"json": json, "protobuf": proto} {
			b.Run(fmt.Sprintf("%s/streams=%d", name, streams), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					d := &decoder{streams: &streamTable{}}
					var err error
					if name == "json" {
						err = d.json(bytes.NewReader(body))
					} else {
						err = d.protobuf(body)
					}
					if es := merged(d.entries); err != nil || len(es) != lines {
						b.Fatal(len(es), err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/entry")
			})
		}
	}
}

// pageOf makes a page in both forms, as Loki writes it.
func pageOf(lines, streams int) (asJSON, asProto []byte) {
	var all []fakeStream
	for s := range streams {
		st := fakeStream{labels: map[string]string{"job": "fail2ban", "host": fmt.Sprintf("web-%d", s)}}
		for i := s; i < lines; i += streams {
			st.entries = append(st.entries, Entry{
				Time:     time.Unix(0, 1_795_000_000_000_000_000+int64(i)),
				Line:     fmt.Sprintf("2026-11-22 10:00:00,%03d fail2ban.actions        [4707]: NOTICE  [sshd] Ban 192.0.2.%d", i%1000, i%256),
				Metadata: map[string]string{"detected_level": "unknown"},
			})
		}
		all = append(all, st)
	}
	return writeJSON(all), writeProto(all)
}

// anyJSON draws JSON that is nearly an entry.
func anyJSON(t *rapid.T) []byte {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"1", "-7", `a"b`, `\`, "[", "]", ",", "{é}", "\x00\u2028"}))
	part := func(name string) any {
		switch rapid.IntRange(0, 9).Draw(t, name) {
		case 0:
			return rapid.SampledFrom([]any{nil, 1, true, []any{}, map[string]any{}}).Draw(t, name)
		case 1, 2:
			return map[string]any{"structuredMetadata": map[string]string{text.Draw(t, name): text.Draw(t, name)}, "parsed": map[string]any{"x": []int{1}}}
		}
		return text.Draw(t, name)
	}
	var parts []any
	if rapid.IntRange(0, 9).Draw(t, "stamp") > 0 {
		parts = append(parts, strconv.FormatInt(rapid.Int64().Draw(t, "ns"), 10))
	}
	for range rapid.IntRange(0, 3).Draw(t, "parts") {
		parts = append(parts, part("part"))
	}
	var b []byte
	var err error
	if rapid.Bool().Draw(t, "indent") {
		b, err = json.MarshalIndent(parts, "\t", " ")
	} else {
		b, err = json.Marshal(parts)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEntriesAsThePlainWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { samePlain(t, anyJSON(t)) })
}
