// Go's own text/template on a list of templates with values, for the tests of lorans' evaluator.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"text/template"
)

type example struct {
	Template string
	Values   map[string]any
}

func main() {
	var examples []example
	if err := json.NewDecoder(os.Stdin).Decode(&examples); err != nil {
		panic(err)
	}
	written := make([]string, len(examples))
	for i, one := range examples {
		var out bytes.Buffer
		parsed, err := template.New("").Option("missingkey=zero").Parse(one.Template)
		if err == nil {
			err = parsed.Execute(&out, one.Values)
		}
		written[i] = out.String()
		if err != nil {
			written[i] = "error: " + err.Error()
		}
	}
	json.NewEncoder(os.Stdout).Encode(written)
}
