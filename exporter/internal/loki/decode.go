package loki

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// The entries of an answer are by far the most of it, so they are taken apart
// by hand. Their JSON has been found valid before: only its types are in doubt.

// entries appends the entries of one stream's "values":
// [["<nanoseconds>", "<line>", {"structuredMetadata": {...}}], ...].
func (p *pager) entries(values []byte, st *Stream, out []Entry) ([]Entry, error) {
	if len(values) == 0 || string(values) == "null" {
		return out, nil
	}
	s := scanner{b: values}
	if !s.skip('[') {
		return out, fmt.Errorf("values are no list: %.20q", values)
	}
	for !s.skip(']') {
		e, err := p.entry(&s)
		if err != nil {
			return out, err
		}
		e.Stream = st
		out = append(out, e)
		s.skip(',')
	}
	return out, nil
}

func (p *pager) entry(s *scanner) (e Entry, err error) {
	if !s.skip('[') {
		return e, errors.New("an entry is no list")
	}
	stamp, err := s.text()
	if err != nil {
		return e, err
	}
	n, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return e, fmt.Errorf("entry time %q: %w", stamp, err)
	}
	e.Time = time.Unix(0, n).UTC()
	s.skip(',')
	if e.Line, err = s.text(); err != nil {
		return e, err
	}
	for i := 2; !s.skip(']'); i++ {
		s.skip(',')
		if extra := s.value(); i == 2 {
			if e.Metadata, err = p.extra(extra); err != nil {
				return e, err
			}
		}
	}
	return e, nil
}

// maxExtras bounds the cache of metadata.
const maxExtras = 1024

// extra reads the third part of an entry. Most entries say the same there, so
// equal ones share a map.
func (p *pager) extra(b []byte) (map[string]string, error) {
	if m, ok := p.extras[string(b)]; ok {
		return m, nil
	}
	var extra struct{ StructuredMetadata map[string]string }
	if err := json.Unmarshal(b, &extra); err != nil {
		return nil, err
	}
	if p.extras == nil || len(p.extras) >= maxExtras {
		p.extras = map[string]map[string]string{}
	}
	p.extras[string(b)] = extra.StructuredMetadata
	return extra.StructuredMetadata, nil
}

// scanner walks over valid JSON.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\t' || s.b[s.i] == '\r') {
		s.i++
	}
}

// skip steps over c if it is next. The end counts as any c, so that no loop
// runs on where the JSON was not valid after all.
func (s *scanner) skip(c byte) bool {
	s.space()
	if s.i >= len(s.b) {
		return true
	}
	if s.b[s.i] != c {
		return false
	}
	s.i++
	return true
}

// text reads a string.
func (s *scanner) text() (string, error) {
	s.space()
	if s.i >= len(s.b) || s.b[s.i] != '"' {
		return "", errors.New("an entry is not two strings")
	}
	raw := s.quoted()
	if inner := raw[1 : len(raw)-1]; bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner), nil
	}
	var t string
	err := json.Unmarshal(raw, &t)
	return t, err
}

// quoted steps over a string and gives it with its quotes.
func (s *scanner) quoted() []byte {
	start := s.i
	for s.i++; s.i < len(s.b) && s.b[s.i] != '"'; s.i++ {
		if s.b[s.i] == '\\' {
			s.i++
		}
	}
	s.i = min(s.i+1, len(s.b))
	return s.b[start:s.i]
}

// value steps over a value of any type and gives it.
func (s *scanner) value() []byte {
	s.space()
	start, depth := s.i, 0
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case '"':
			s.quoted()
			continue
		case '{', '[':
			depth++
		case '}', ']', ',':
			if depth == 0 {
				return bytes.TrimSpace(s.b[start:s.i])
			}
			if s.b[s.i] != ',' {
				depth--
			}
		}
		s.i++
	}
	return s.b[start:]
}
