// Node's tls: see tests/tests/clients/tls.rs for what it is asked and says.
const fs = require("fs");
const tls = require("tls");
const [address, authority, seconds, names] = process.argv.slice(2);
const ca = fs.readFileSync(authority);
for (const name of fs.readFileSync(names, "utf8").split("\n").filter(Boolean)) {
  const s = tls.connect({ host: address, port: 443, servername: name, ca });
  let got = "";
  let said = false;
  const say = (word, why) => {
    if (!said) console.log(word, name, why);
    said = true;
    clearTimeout(timer);
    s.destroy();
  };
  const timer = setTimeout(() => say("refused", "timeout"), seconds * 1000);
  s.on("secureConnect", () => s.write(`GET / HTTP/1.1\r\nHost: ${name}\r\n\r\n`));
  s.on("data", (piece) => (got += piece));
  s.on("end", () => say(got.endsWith("reached\n") ? "served" : "odd", ""));
  s.on("error", (e) => say("refused", e.message));
}
