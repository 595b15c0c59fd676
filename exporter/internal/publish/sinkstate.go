package publish

// State tells how many findings wait to be pushed, and why the last push
// failed; nil where it did not.
func (s *LokiSink) State() (waiting int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue), s.failed
}
