package correlate

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Histogram holds spans in seconds, in classic buckets and in native ones.
type Histogram struct {
	Bounds []float64 // upper bounds of the classic buckets, shared, never changed
	Counts []uint64  // one more than Bounds: the last is +Inf; not cumulated
	Milli  int64     // sum of the spans in milliseconds, so that it does not depend on their order
	Total  uint64

	Native []NativeBucket // those that hold something, by index
	Zero   uint64         // spans of no time, which are in no native bucket
}

// NativeSchema is how fine native buckets are: each ends at 2^(1/8), 9 % more
// than the one before. It is the resolution that client_golang has by default
// for a factor of 1.1.
const NativeSchema = 3

// NativeBucket counts the spans above 2^((Index-1)/8) and up to 2^(Index/8)
// seconds.
type NativeBucket struct {
	Index int32
	Count uint64
}

// nativeBounds are 2^(i/8)/2, as Prometheus rounds them.
var nativeBounds = []float64{
	0.5, 0.5452538663326288, 0.5946035575013605, 0.6484197773255048, 0.7071067811865475, 0.7711054127039704, 0.8408964152537144, 0.9170040432046711,
}

// nativeIndex is the bucket of a span in seconds, above 0.
func nativeIndex(v float64) int32 {
	frac, exp := math.Frexp(v)
	i, _ := slices.BinarySearch(nativeBounds, frac)
	return int32(i + (exp-1)*len(nativeBounds))
}

// Sum of the spans in seconds.
func (h *Histogram) Sum() float64 { return float64(h.Milli) / 1000 }

// NativeTotal is how many spans the native buckets hold.
func (h *Histogram) NativeTotal() uint64 {
	n := h.Zero
	for _, b := range h.Native {
		n += b.Count
	}
	return n
}

func newHistogram(bounds []float64) Histogram {
	return Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}
}

// Observe counts a span, of whole milliseconds.
func (h *Histogram) Observe(d time.Duration) {
	milli := d.Milliseconds()
	v := float64(milli) / 1000
	i, _ := slices.BinarySearch(h.Bounds, v)
	h.Counts[i]++
	h.Milli += milli
	h.Total++
	if milli <= 0 {
		h.Zero++
		return
	}
	h.bucket(nativeIndex(v)).Count++
}

// bucket finds a native bucket, or makes it. It is where it is until the next
// one is made.
func (h *Histogram) bucket(index int32) *NativeBucket {
	i, found := slices.BinarySearchFunc(h.Native, index, func(b NativeBucket, index int32) int { return cmp.Compare(b.Index, index) })
	if !found {
		h.Native = slices.Insert(h.Native, i, NativeBucket{Index: index})
	}
	return &h.Native[i]
}

func (h Histogram) clone() Histogram {
	h.Counts, h.Native = slices.Clone(h.Counts), slices.Clone(h.Native)
	return h
}

// Add adds another histogram of the same bounds; an empty one takes them over.
func (h *Histogram) Add(o *Histogram) {
	if h.Counts == nil {
		h.Bounds, h.Counts = o.Bounds, make([]uint64, len(o.Counts))
	}
	if len(h.Counts) != len(o.Counts) {
		return
	}
	addTo(h.Counts, o.Counts)
	h.Milli, h.Total, h.Zero = h.Milli+o.Milli, h.Total+o.Total, h.Zero+o.Zero
	for _, b := range o.Native {
		h.bucket(b.Index).Count += b.Count
	}
}

// less takes from a histogram what another has. Where a span went into another
// bucket the sum cannot be right in both: what is shown does not fall.
func (h *Histogram) less(o *Histogram) {
	h.Total = 0
	for i := range h.Counts {
		if i < len(o.Counts) {
			h.Counts[i] -= min(h.Counts[i], o.Counts[i])
		}
		h.Total += h.Counts[i]
	}
	h.Milli = max(0, h.Milli-o.Milli)
	h.Zero -= min(h.Zero, o.Zero)
	for _, b := range o.Native {
		left := h.bucket(b.Index)
		left.Count -= min(left.Count, b.Count)
	}
	h.Native = slices.DeleteFunc(h.Native, func(b NativeBucket) bool { return b.Count == 0 })
}

// histogram codes the counts; sums are whole milliseconds.
func (c *codec) histogram(h *Histogram) {
	for i := range h.Counts {
		number(c, &h.Counts[i])
	}
	number(c, &h.Total)
	number(c, &h.Milli)
	number(c, &h.Zero)
	n := c.count(len(h.Native))
	if !c.writing() {
		h.Native = make([]NativeBucket, min(n, maxNative))
	}
	for i := range h.Native {
		number(c, &h.Native[i].Index)
		number(c, &h.Native[i].Count)
	}
	ordered := slices.IsSortedFunc(h.Native, func(a, b NativeBucket) int { return cmp.Compare(a.Index, b.Index) })
	if n > maxNative || !ordered {
		c.fail(ErrDamaged)
	}
}

// maxNative is more buckets than spans in milliseconds can be in: 64 bits of
// them, 8 each.
const maxNative = 64 * 8
