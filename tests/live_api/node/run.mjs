// Runs one function of one script: `node run.mjs chat.mjs create`.
const [script, name] = process.argv.slice(2);
const scenarios = await import(`./${script}`);
await scenarios[name]();
console.log(`ok ${name}`);
