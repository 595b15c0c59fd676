package correlate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrDamaged says that a snapshot cannot be read: cut, damaged, or not one.
var ErrDamaged = errors.New("damaged")

// codec writes or reads a snapshot: the same description of a type's fields
// serves both ways, so that they cannot drift apart. The first error sticks and
// everything after it is zero.
type codec struct {
	w   io.Writer // nil when reading
	r   io.Reader
	buf []byte
	pos int // next byte to read
	sum uint32
	err error
	// anyOrder says that writing need not put the ids in order.
	anyOrder bool

	seen map[*restart]uint32 // writing: places of the host's restarts
	all  []*restart          // reading and writing: the host's restarts
}

const (
	codecBuffer = 64 << 10
	maxText     = 64 << 10 // bytes of a string
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c *codec) writing() bool { return c.w != nil }

func (c *codec) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// flush hands on what was written once it fills a buffer, or all of it.
func (c *codec) flush(all bool) {
	if c.err != nil || len(c.buf) == 0 || !all && len(c.buf) < codecBuffer {
		return
	}
	c.sum = crc32.Update(c.sum, castagnoli, c.buf)
	if _, err := c.w.Write(c.buf); err != nil {
		c.fail(err)
	}
	c.buf = c.buf[:0]
}

// need makes n bytes readable and takes them.
func (c *codec) need(n int) []byte {
	for c.err == nil && len(c.buf)-c.pos < n {
		c.sum = crc32.Update(c.sum, castagnoli, c.buf[:c.pos])
		rest := copy(c.buf, c.buf[c.pos:])
		c.buf, c.pos = c.buf[:rest], 0
		if cap(c.buf) < codecBuffer {
			c.buf = append(make([]byte, 0, codecBuffer+maxText), c.buf...)
		}
		m, err := c.r.Read(c.buf[rest:cap(c.buf)])
		c.buf = c.buf[:rest+m]
		if err != nil && len(c.buf) < n {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: it ends too soon", ErrDamaged)
			}
			c.fail(err)
		}
	}
	if c.err != nil {
		return nil
	}
	b := c.buf[c.pos : c.pos+n]
	c.pos += n
	return b
}

func (c *codec) readVarint() int64 {
	var u uint64
	for shift := 0; shift < 64; shift += 7 {
		var b byte
		if c.pos < len(c.buf) {
			b = c.buf[c.pos]
			c.pos++
		} else if one := c.need(1); one != nil {
			b = one[0]
		} else {
			return 0
		}
		u |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return int64(u>>1) ^ -int64(u&1)
		}
	}
	c.fail(fmt.Errorf("%w: a number is too long", ErrDamaged))
	return 0
}

// number codes an integer of any type.
func number[T ~int | ~int64 | ~int32 | ~uint64 | ~uint32 | ~uint16 | ~int16 | ~uint8](c *codec, p *T) {
	if c.writing() {
		c.buf = binary.AppendVarint(c.buf, int64(*p))
		return
	}
	v := c.readVarint()
	if *p = T(v); int64(*p) != v {
		c.fail(fmt.Errorf("%w: %d is out of range", ErrDamaged, v))
	}
}

// flags codes up to eight booleans in one byte.
func (c *codec) flags(ps ...*bool) {
	var b uint8
	for i, p := range ps {
		if *p {
			b |= 1 << i
		}
	}
	number(c, &b)
	for i, p := range ps {
		*p = b&(1<<i) != 0
	}
}

// count codes a length. What is read is not trusted: who fills a list appends.
func (c *codec) count(n int) int {
	number(c, &n)
	if n < 0 {
		c.fail(fmt.Errorf("%w: a list of %d", ErrDamaged, n))
	}
	if c.err != nil {
		return 0
	}
	return n
}

// text codes a string of any type.
func text[T ~string](c *codec, p *T) {
	n := c.count(len(*p))
	if c.writing() {
		c.buf = append(c.buf, *p...)
		c.flush(false)
		return
	}
	if n > maxText {
		c.fail(fmt.Errorf("%w: a text of %d bytes", ErrDamaged, n))
		return
	}
	*p = T(c.need(n))
}

// list codes a slice by its elements.
func list[T any](c *codec, s *[]T, each func(*T)) {
	n := c.count(len(*s))
	if c.writing() {
		for i := range *s {
			each(&(*s)[i])
		}
		return
	}
	*s = nil
	for range n {
		if c.err != nil {
			return
		}
		var v T
		each(&v)
		*s = append(*s, v)
	}
}

// pointer codes what may be nil.
func pointer[T any](c *codec, p **T, each func(*T)) {
	there := *p != nil
	c.flags(&there)
	if !there {
		*p = nil
		return
	}
	if !c.writing() {
		*p = new(T)
	}
	each(*p)
}
