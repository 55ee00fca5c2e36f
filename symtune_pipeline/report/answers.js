(() => {
  const CHANGES = ["same", "wrong → right", "right → wrong"], AT_ONCE = 25;
  const at = (id) => document.getElementById(id), list = at("questions"), more = at("more");
  const [untuned, tuned] = ["untuned", "tuned"].map((name) => answers.variants.indexOf(name));
  // Of a row's variants two are compared, where it has both: the number of the change.
  const changeOf = (row) => {
    const [before, after] = [row[5][untuned], row[5][tuned]];
    return before && after ? (before[0] === after[0] ? 0 : after[0] ? 1 : 2) : null;
  };
  const filters = [["model", (row) => row[0]], ["setting", (row) => row[1]], ["part", (row) => row[2]], ["change", changeOf]]
    .filter(([name]) => at(`by-${name}`));
  const add = (parent, tag, text, kind) => {
    const made = parent.appendChild(document.createElement(tag));
    made.textContent = text; // never markup
    if (kind) made.className = kind;
    return made;
  };
  const said = (answer) => typeof answer === "string" ? answer || "(nothing)"
    : answer.map(([label, logprob]) => `${label} ${logprob.toFixed(2).replace("-", "−")}`).join(" · ");
  const show = (row) => {
    const item = add(list, "li", ""), change = changeOf(row);
    const about = [answers.settings[row[1]], answers.parts[row[2]]];
    if (answers.models.length > 1) about.unshift(answers.models[row[0]]);
    if (change !== null) about.push(CHANGES[change]);
    add(item, "p", about.join(" | "), "note");
    add(item, "p", answers.texts[row[3]], "query");
    add(item, "p", `Target: ${row[4]}`);
    row[5].forEach((answer, variant) => {
      if (!answer) return;
      const line = add(item, "p", "", answer[0] ? "is-right" : "is-wrong");
      add(line, "strong", `${answers.variants[variant]}, ${answer[0] ? "right" : "wrong"}: `);
      add(line, "span", said(answer[1]));
    });
  };
  let matching = [];
  const extend = () => {
    const shown = list.children.length;
    matching.slice(shown, shown + AT_ONCE).forEach(show);
    more.hidden = list.children.length === matching.length;
    at("matching").textContent = matching.length
      ? `${matching.length.toLocaleString("en")} match; ${list.children.length.toLocaleString("en")} shown.` : "No question matches.";
  };
  const restart = () => {
    const chosen = filters.map(([name, of]) => [at(`by-${name}`).value, of]).filter(([value]) => value);
    matching = answers.rows.filter((row) => chosen.every(([value, of]) => of(row) === Number(value)));
    list.replaceChildren();
    extend();
  };
  filters.forEach(([name]) => at(`by-${name}`).addEventListener("change", restart));
  more.addEventListener("click", extend);
  restart();
})();
