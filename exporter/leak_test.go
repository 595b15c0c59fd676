package main

import (
	"testing"

	"go.uber.org/goleak"
)

// What a command starts has ended when it returns. A test's own server sleeps
// for half a second over a connection whose request it has not read to its end.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}
