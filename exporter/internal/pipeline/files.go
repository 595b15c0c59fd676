package pipeline

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/fail2ban"
)

// DefaultHost names the host of files given without one.
const DefaultHost = "localhost"

// Input is one log file of a host; the path "-" is standard input.
type Input struct{ Host, Path string }

// ParseInput reads "[HOST=]FILE". A path that holds "=" before any "/" must be
// given with its host.
func ParseInput(s string) Input {
	host, path, ok := strings.Cut(s, "=")
	if !ok || strings.Contains(host, "/") || host == "" {
		return Input{Host: DefaultHost, Path: s}
	}
	return Input{Host: host, Path: path}
}

// Files reads log files: each host's rotated ones as one log, oldest first by
// their content.
type Files struct {
	// Notices is what a person should know of how the input was taken.
	Notices []string

	hosts []hostFiles
}

type hostFiles struct {
	host  string
	files []*file
}

// file is a log file in memory order.
type file struct {
	path  string
	first time.Time
	data  []byte
}

// maxFile bounds what is read of one file, so that a wrong path is an error
// and not the end of the memory.
const maxFile = 4 << 30

// OpenFiles reads the inputs. Patterns are expanded; o says how lines are read,
// to put each host's files in order.
func OpenFiles(inputs []Input, stdin io.Reader, o fail2ban.Options) (*Files, error) {
	fs := &Files{}
	for _, in := range inputs {
		paths, err := expand(in.Path)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			f, err := readFile(path, stdin)
			if err != nil {
				return nil, err
			}
			parts := []*file{f}
			if path == "-" {
				if parts = f.split(o); len(parts) > 1 {
					fs.Notices = append(fs.Notices, fmt.Sprintf("standard input jumps back in time %d times: its parts were put in order", len(parts)-1))
				}
			}
			for _, f := range parts {
				f.first = firstStamp(f.data, o)
				fs.add(in.Host, f)
			}
		}
	}
	for _, h := range fs.hosts {
		slices.SortStableFunc(h.files, func(a, b *file) int { return a.first.Compare(b.first) })
	}
	return fs, nil
}

func (fs *Files) add(host string, f *file) {
	for i := range fs.hosts {
		if fs.hosts[i].host == host {
			fs.hosts[i].files = append(fs.hosts[i].files, f)
			return
		}
	}
	fs.hosts = append(fs.hosts, hostFiles{host: host, files: []*file{f}})
}

func expand(path string) ([]string, error) {
	if path == "-" || !strings.ContainsAny(path, "*?[") {
		return []string{path}, nil
	}
	paths, err := filepath.Glob(path)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", path, err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no file matches %q", path)
	}
	return paths, nil
}

func readFile(path string, stdin io.Reader) (*file, error) {
	r := stdin
	if path != "-" {
		fh, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer fh.Close()
		r = fh
	}
	br := bufio.NewReaderSize(r, 64<<10)
	if magic, _ := br.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		br = bufio.NewReader(z)
	}
	data, err := io.ReadAll(io.LimitReader(br, maxFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if isBinary(data) {
		return nil, fmt.Errorf("%s: this is no text: give fail2ban's log file, plain or gzipped", path)
	}
	return &file{path: path, data: data}, nil
}

// isBinary tells data that no log is: fail2ban writes UTF-8, and a NUL only at
// the end of a raw syslog datagram.
func isBinary(data []byte) bool {
	head := data[:min(len(data), 8<<10)]
	odd := 0
	for i, c := range head {
		switch {
		case c == 0 && (i+1 == len(head) || head[i+1] == '\n' || head[i+1] == '<'):
		case c == '\n', c == '\r', c == '\t', c == 0x1b, c >= ' ':
		default:
			odd++
		}
	}
	return odd > len(head)/100
}

// jumpBack is how far back a stamp must lie to begin another file: threads and
// clocks put lines out of order by seconds.
const jumpBack = 10 * time.Minute

// split cuts what several files were poured into where time jumps back.
func (f *file) split(o fail2ban.Options) (parts []*file) {
	p := fail2ban.NewParser(o)
	var ev fail2ban.Event
	var newest time.Time
	begin := 0
	for at := 0; at < len(f.data); {
		end := at + bytes.IndexByte(f.data[at:], '\n') + 1
		if end <= at {
			end = len(f.data)
		}
		if err := p.Parse(f.data[at:end], time.Time{}, &ev); err == nil && !ev.Time.IsZero() {
			if ev.Time.Before(newest.Add(-jumpBack)) {
				parts = append(parts, &file{path: f.path, data: f.data[begin:at]})
				begin, newest = at, ev.Time
			}
			if ev.Time.After(newest) {
				newest = ev.Time
			}
		}
		at = end
	}
	return append(parts, &file{path: f.path, data: f.data[begin:]})
}

// firstStamp is the time of the first line that bears one.
func firstStamp(data []byte, o fail2ban.Options) time.Time {
	p := fail2ban.NewParser(o)
	var ev fail2ban.Event
	for len(data) > 0 {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte("\n"))
		if err := p.Parse(line, time.Time{}, &ev); err == nil && !ev.Time.IsZero() {
			return ev.Time
		}
	}
	return time.Time{}
}

// Lines implements Source: host by host, each log in the order it was written.
// The window is not looked at: FeedOptions.From and To bound the lines of files.
func (fs *Files) Lines(ctx context.Context, _, _ time.Time) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for _, h := range fs.hosts {
			for _, f := range h.files {
				if !f.lines(ctx, h.host, yield) {
					return
				}
			}
		}
	}
}

func (f *file) lines(ctx context.Context, host string, yield func(Line, error) bool) bool {
	data := f.data
	for n := 0; len(data) > 0; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return yield(Line{}, ctx.Err())
		}
		var line []byte
		line, data, _ = bytes.Cut(data, []byte("\n"))
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if !yield(Line{Host: host, Text: string(line[:min(len(line), fail2ban.MaxLine)])}, nil) {
			return false
		}
	}
	return true
}

// ErrNothingRead says that no line of the input was fail2ban's.
var ErrNothingRead = errors.New("no line of fail2ban's in the input")
