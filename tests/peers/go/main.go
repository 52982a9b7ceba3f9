// A SPDY/3.1 peer over the framer of Debian's golang-github-docker-spdystream-dev, in both roles,
// with flow control of its own on top: session and stream windows, kept strictly. What the other
// side does against them ends the process with a message.
//
// Usage:
//
//	spdy-peer-go agent --proxy HOST:PORT --root DIR [--window OCTETS] [--slack OCTETS] [--quiet]
//	spdy-peer-go proxy --cert FILE --key FILE [--listen HOST:PORT] [--window OCTETS]
//	    [--slack OCTETS] [--quiet]
//	    [--get PATH | --head PATH | --range FIRST-LAST:PATH | --put FILE:PATH]...
//
// With --quiet the peer announces nothing at the start (no SETTINGS, no WINDOW_UPDATE): windows
// are 65,536. --slack is how far the other side may overrun a window.
// Output: JSON lines, the same as those of the Node peer.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: spdy-peer-go agent|proxy FLAGS")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	var windows windowOptions
	flags.Int64Var(&windows.size, "window", initialWindow, "receive windows, octets")
	flags.Int64Var(&windows.slack, "slack", 0, "overrun that is tolerated, octets")
	flags.BoolVar(&windows.quiet, "quiet", false, "announce nothing")
	var err error
	switch os.Args[1] {
	case "agent":
		err = runAgent(flags, &windows, os.Args[2:])
	case "proxy":
		err = runProxy(flags, &windows, os.Args[2:])
	default:
		err = fmt.Errorf("unknown role %q", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

type fields map[string]interface{}

var printing sync.Mutex

// printLine writes one JSON line.
func printLine(line fields) {
	printing.Lock()
	defer printing.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}
