// The container service that Lodge replaces, at its smallest.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "Hello, World!")
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
