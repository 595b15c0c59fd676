package loki

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Asked with Accept: application/vnd.google.protobuf, Loki answers with the
// message its own parts exchange, queryrange.QueryResponse:
//
//	QueryResponse  6 streams (5 for a query that gives numbers)
//	  LokiResponse   1 status, 2 data
//	    LokiData       1 result type, 2 streams
//	      Stream         1 labels, 2 entries
//	        Entry          1 time (1 seconds, 2 nanoseconds), 2 line, 3 structured metadata
//	          LabelPair      1 name, 2 value
//
// Its Go type is in a package under AGPL that links half of Loki, so it is
// taken apart here by hand; only field numbers, which never change, are known.
// Everything lies within field 6, whose length stands before it: an answer cut
// anywhere cannot be read, and is never taken for a shorter one.

const protobufType = "application/vnd.google.protobuf"

// errDamaged is an answer that broke on its way. The next may be whole.
var errDamaged = errors.New("the answer is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// message walks over the fields of a message.
type message struct {
	b   []byte
	num protowire.Number
	typ protowire.Type
	val []byte // of a field of bytes
	n   uint64 // of one of a varint
	err error
}

// next steps to the next field and tells whether there is one.
func (m *message) next() bool {
	if len(m.b) == 0 || m.err != nil {
		return false
	}
	n := 0
	m.num, m.typ, n = protowire.ConsumeTag(m.b)
	if n >= 0 {
		m.b = m.b[n:]
		switch m.typ {
		case protowire.BytesType:
			m.val, n = protowire.ConsumeBytes(m.b)
		case protowire.VarintType:
			m.n, n = protowire.ConsumeVarint(m.b)
		default:
			n = protowire.ConsumeFieldValue(m.num, m.typ, m.b)
		}
	}
	if n < 0 {
		m.err = damaged("%v", protowire.ParseError(n))
		return false
	}
	m.b = m.b[n:]
	return true
}

// is tells whether the field has this number, and that its type is the one it
// must have.
func (m *message) is(num protowire.Number, typ protowire.Type) bool {
	if m.num != num {
		return false
	}
	if m.typ != typ {
		m.err = damaged("field %d has type %d", num, m.typ)
	}
	return m.err == nil
}

// protobuf reads an answer in protobuf.
func (d *decoder) protobuf(body []byte) error {
	whole, numbers := false, false
	m := message{b: body}
	for m.next() {
		switch {
		case m.is(6, protowire.BytesType):
			whole = true
			if err := d.response(m.val); err != nil {
				return err
			}
		case m.is(5, protowire.BytesType):
			numbers = true
		}
	}
	switch {
	case m.err != nil:
		return m.err
	case numbers && !whole:
		return errors.New("the query gives numbers, not log lines")
	case !whole:
		return damaged("it is empty")
	}
	return nil
}

func (d *decoder) response(b []byte) error {
	var status string
	kind, whole := "", false
	m := message{b: b}
	for m.next() {
		switch {
		case m.is(1, protowire.BytesType):
			status = string(m.val)
		case m.is(2, protowire.BytesType):
			whole = true
			data := message{b: m.val}
			for data.next() {
				switch {
				case data.is(1, protowire.BytesType):
					kind = string(data.val)
				case data.is(2, protowire.BytesType):
					if err := d.protoStream(data.val); err != nil {
						return err
					}
				}
			}
			if data.err != nil {
				return data.err
			}
		}
	}
	switch {
	case m.err != nil:
		return m.err
	case !whole || kind == "":
		return damaged("it has no data")
	case kind != "streams":
		return fmt.Errorf("the query gives %q, not log lines", kind)
	case status != "success":
		return damaged("its status is %.40q", status)
	}
	return nil
}

func (d *decoder) protoStream(b []byte) error {
	// The labels come first, but no writer of protobuf has to do so.
	var st *Stream
	m := message{b: b}
	for m.next() {
		if m.is(1, protowire.BytesType) {
			var err error
			if st, err = d.streams.ofText(m.val); err != nil {
				return err
			}
		}
	}
	if m.err != nil {
		return m.err
	}
	if st == nil {
		return damaged("a stream has no labels")
	}
	m = message{b: b}
	for m.next() {
		if m.is(2, protowire.BytesType) {
			e, err := d.protoEntry(m.val)
			if err != nil {
				return err
			}
			e.Stream = st
			if err := d.add(e); err != nil {
				return err
			}
		}
	}
	return m.err
}

func (d *decoder) protoEntry(b []byte) (e Entry, err error) {
	var sec, nsec int64
	timed := false
	d.scratch = d.scratch[:0]
	m := message{b: b}
	for m.next() {
		switch {
		case m.is(1, protowire.BytesType):
			timed = true
			at := message{b: m.val}
			for at.next() {
				switch {
				case at.is(1, protowire.VarintType):
					sec = int64(at.n)
				case at.is(2, protowire.VarintType):
					nsec = int64(at.n)
				}
			}
			if at.err != nil {
				return e, at.err
			}
		case m.is(2, protowire.BytesType):
			e.Line = validText(m.val)
		case m.is(3, protowire.BytesType):
			d.scratch = protowire.AppendBytes(d.scratch, m.val)
		}
	}
	if m.err != nil {
		return e, m.err
	}
	const most = 1 << 33 // seconds that nanoseconds in 64 bits can hold
	if !timed || nsec < 0 || nsec >= 1e9 || sec <= -most || sec >= most {
		return e, damaged("an entry has no time")
	}
	e.Time = time.Unix(sec, nsec).UTC()
	if len(d.scratch) > 0 {
		e.Metadata, err = d.protoExtra(d.scratch)
	}
	return e, err
}

// protoExtra reads structured metadata: label pairs, each with its length
// before it. Equal ones share a map.
func (d *decoder) protoExtra(b []byte) (map[string]string, error) {
	if m, ok := d.extras[string(b)]; ok {
		return m, nil
	}
	key, out := string(b), map[string]string{}
	for len(b) > 0 {
		pair, n := protowire.ConsumeBytes(b)
		b = b[n:] // written by protoEntry, so it is whole
		var name, value string
		m := message{b: pair}
		for m.next() {
			switch {
			case m.is(1, protowire.BytesType):
				name = validText(m.val)
			case m.is(2, protowire.BytesType):
				value = validText(m.val)
			}
		}
		if m.err != nil {
			return nil, m.err
		}
		out[name] = value
	}
	d.remember(key, out)
	return out, nil
}

// validText makes a string as JSON would have it: each byte that is not UTF-8
// is the replacement character. The same line is then equal however it was read.
func validText(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return string([]rune(string(b)))
}

// parseLabels reads labels as Loki writes them: {a="b", c="d"}.
func parseLabels(text string) (map[string]string, error) {
	bad := func() (map[string]string, error) { return nil, damaged("%.80q are no labels", text) }
	rest, ok := strings.CutPrefix(text, "{")
	if !ok {
		return bad()
	}
	out := map[string]string{}
	for first := true; ; first = false {
		if end, ok := strings.CutPrefix(rest, "}"); ok && (end == "" && (first || len(out) > 0)) {
			return out, nil
		}
		if !first {
			if rest, ok = strings.CutPrefix(rest, ","); !ok {
				return bad()
			}
			rest = strings.TrimLeft(rest, " ")
		}
		var name, value string
		if strings.HasPrefix(rest, `"`) {
			if name, rest, ok = unquote(rest); !ok {
				return bad()
			}
			rest, ok = strings.CutPrefix(rest, "=")
		} else {
			name, rest, ok = strings.Cut(rest, "=")
		}
		if !ok || name == "" {
			return bad()
		}
		if value, rest, ok = unquote(rest); !ok {
			return bad()
		}
		out[validText([]byte(name))] = validText([]byte(value))
	}
}

// unquote reads a quoted string and gives what follows it.
func unquote(s string) (text, rest string, ok bool) {
	q, err := strconv.QuotedPrefix(s)
	if err != nil || q[0] != '"' {
		return "", "", false
	}
	text, err = strconv.Unquote(q)
	return text, s[len(q):], err == nil
}
