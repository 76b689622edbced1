"""The rules of news. See everyday.py for how they are read."""

from __future__ import annotations

from collections.abc import Mapping

from archnet.calibration.everyday_rules import lines as _lines
from archnet.calibration.everyday_rules import words as _words

NEWS: Mapping[str, tuple[str, ...]] = {
    "news": _lines("""
        <body> <said> <time> that <forecast>.
        <body> <said> that <forecast>.
        <forecast_cap>, <source> said <time>.
        "<forecast_cap>," <source> said.
        <body> <did> <affair> <time>.
        <body> <did> <affair> in <area>.
        <body> <did> <affair> after <happening>.
        <body> <did> <affair>, but <body_low> <did> it.
        At least <count> people were <harmed> when <disaster> <area_at> <time>.
        <count_cap> people <died> in <a_disaster> in <area> <time>.
        Police arrested <count> <suspects> in <area> on charges of <crime>.
        A <suspect> was sentenced to <count> years in prison for <crime>.
        Shares of the <firm> <fell> <percent> percent <time>.
        The <index> <fell> <percent> points, or <percent> percent, to close at <amount>.
        The <firm> reported a <quarter> profit of <amount> million <currency>, up from <amount> million.
        <nation> and <nation> <agreed> <treaty> <time>.
        <nation> <said> <time> that it would <policy>.
        The <leader> of <nation> <did> <affair> during a visit to <nation>.
        The <leader> told <audience> that <forecast>.
        <audience_cap> must <policy> if we want to <goal>.
        I would like to thank the <leader> for the report on <affair>.
        We should not forget that <forecast>.
        It is important that <body_low> <should> <policy> before the <season>.
        <team> beat <team> <score> in the <final> on <day>.
        <team> lost to <team> for the <ordinal> time this season.
        The <ordinal> victim of <a_disaster> was found <time> near <area>.
        Heavy <weather_n> <hit> <area> <time>, and thousands of homes lost power.
        Researchers found that <finding>.
        A new study shows that <finding>.
        <finding_cap>, according to a study published <time>.
        The <firm> will <company_act> by the end of the year.
        The <firm> plans to <company_act> to <goal>.
        The court ruled that the <firm> had violated <law>.
        Voters in <nation> will choose a new <leader> on <day>.
        Oil prices <fell> to <amount> <currency> a barrel as <happening>.
        <nation> <fell> behind <nation> in <field>."""),
    "body": _words("""
        The government, The company, The president, The prime minister, The central bank, The court,
        The police, The parliament, The committee, The union, The minister, The mayor, The opposition,
        The army, The commission, The agency, The ministry, The council, The judge, The university,
        The hospital, The senator, Officials, Investigators, Scientists, Lawmakers, Prosecutors, Investors,
        Rebels, Doctors, Protesters, Economists, Regulators, Critics, Republicans, Democrats,
        The White House, The United Nations, The European Union, The Justice Department, The airline,
        The bank"""),
    "body_low": _words("""
        the government, the company, the president, the court, police, the parliament, the opposition,
        the army, the commission, the council, the judge, officials, scientists, lawmakers, investors,
        doctors, critics, the union, member states, local authorities, the industry, employers,
        the families of the victims"""),
    "source": _words("""
        a spokesman, a spokeswoman, officials, the minister, an analyst, a lawyer, police, a witness,
        the report, a senior official, the chief executive, the director, one resident,
        a military spokesman, the governor"""),
    "said": _words("""
        said, said, announced, warned, denied, confirmed, argued, claimed, insisted, believed, admitted,
        suggested, predicted, estimated, explained, acknowledged, feared, stressed, promised, hoped"""),
    "time": _words("""
        on Monday, on Tuesday, on Wednesday, on Thursday, on Friday, on Saturday, on Sunday, last week,
        last month, this week, this year, last year, yesterday, earlier this month, in January, in March,
        in April, in June, in July, in September, in October, in December, two days ago,
        in the third quarter, over the weekend, on Friday morning"""),
    "day": _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "forecast": _lines("""
        the <firm> would <company_act>
        <nation> would <policy>
        the economy would <grow> by <percent> percent
        prices had <risen> for the <ordinal> month in a row
        there was no evidence of <crime>
        <count> people had <died> in <a_disaster>
        the talks with <nation> had failed
        the situation in <area> was under control
        more troops would be sent to <area>
        the new law would <policy_effect>
        taxes would have to rise next year
        the vaccine was safe for children
        the number of <people_n> had doubled since last year
        nobody knew the cause of <a_disaster>
        the war in <nation> was far from over
        the decision would be made by the <leader>
        it was too early to say who was responsible
        the election would be held on <day>
        <finding>"""),
    "forecast_cap": _lines("""
        The <firm> will <company_act>
        <nation> will <policy>
        There is no evidence of <crime>
        We have to <policy>
        This is a very serious problem
        The talks with <nation> have failed
        It is too early to say what happened
        Our hearts are with the families of the victims
        The situation in <area> is getting worse
        We are doing everything we can
        That is not what we agreed"""),
    "did": _words("""
        approved, rejected, criticized, supported, postponed, discussed, announced, blocked, welcomed,
        defended, signed, cancelled, delayed, condemned, suspended, reviewed, proposed, opposed,
        investigated, dropped, accepted, changed"""),
    "affair": _words("""
        the plan, the budget, the agreement, a new law, the decision, the report, the peace deal,
        the merger, the proposal, the investigation, tax cuts, the attack, the sanctions,
        the election results, the trade deal, the project, the strike, military action,
        the reform of the pension system, new rules for banks, the use of force, the contract,
        plans for a new airport, aid to poor countries, the ban on smoking, the release of the prisoners,
        the constitution, the fishing quotas, human rights, the climate treaty, the death penalty,
        the lawsuit, nuclear power, food safety"""),
    "happening": _words("""
        the vote, the attack, a long debate, weeks of protests, the election, the scandal, the hearing,
        the earthquake, the resignation of the minister, months of talks, the death of the leader,
        the outbreak of the disease, supplies ran low, demand grew, the market opened,
        tensions rose in the region, the crisis began"""),
    "area": _words("""
        the capital, the north, the south of the country, a small town, the city center, Baghdad, New York,
        London, Paris, California, Texas, Florida, Washington, the border region, the suburbs,
        a village near the coast, Moscow, Beijing, Gaza, Jerusalem, Chicago, Boston, Tokyo, Berlin,
        the eastern province, the harbor, rural areas, the Gulf, Hong Kong"""),
    "area_at": _words("""
        in the capital, in the north, near the border, outside the city, in Texas, in southern Italy,
        off the coast, in Baghdad, near the airport, in a village, in central Turkey,
        in the suburbs of Paris, in western China"""),
    "nation": _words("""
        France, Germany, China, Japan, Russia, India, Iran, Iraq, Israel, Syria, Egypt, Turkey, Brazil,
        Mexico, Canada, Britain, Spain, Italy, Greece, Poland, Ukraine, Pakistan, Afghanistan, North Korea,
        South Korea, Australia, South Africa, Nigeria, Kenya, Indonesia, Thailand, Vietnam,
        the Philippines, Cuba, Venezuela, Argentina, Sweden, Norway, the United States, Saudi Arabia,
        the Netherlands, Ireland, Portugal, Libya, Sudan"""),
    "count": _words("""
        two, three, four, five, six, seven, ten, 12, 15, 20, 27, 30, 45, 100, 150, dozens of, hundreds of"""),
    "count_cap": _words("""
        Two, Three, Four, Six, Nine, Eleven, Twenty, Dozens of, Hundreds of, At least 40, More than 200"""),
    "percent": _words("1, 2, 3.5, 0.4, 10, 12, 1.3, 0.7, 25, 7.2, 15, 40, 5, 2.6, 60, 8"),
    "amount": _words("12, 35, 48.5, 100, 120, 250, 9, 1800, 860, 71, 3.4, 500, 10.2, 640, 87, 2000"),
    "currency": _words("dollars, euros, pounds, yen, yuan"),
    "harmed": _words("killed, injured, hurt, wounded, trapped, evacuated, rescued"),
    "died": _words("died, were killed, were injured, were wounded, disappeared, lost their lives"),
    "disaster": _words("""
        a bomb exploded, a bus crashed, a fire broke out, a plane crashed, a building collapsed,
        a gunman opened fire, a train derailed, a boat capsized, an earthquake struck,
        a suicide bomber attacked, a storm hit, a bridge fell down"""),
    "a_disaster": _words("""
        a car bomb attack, a plane crash, a fire, an earthquake, a train accident, a shooting, a flood,
        a storm, an explosion, a landslide, the hurricane, the bombing, the mine accident,
        the ferry disaster, the tornado"""),
    "suspect": _words("""
        man, woman, former soldier, teacher, doctor, bank manager, politician, teenager, police officer,
        priest"""),
    "suspects": _words("""
        suspects, men, people, protesters, students, members of a gang, employees, smugglers, hackers"""),
    "crime": _words("""
        murder, fraud, theft, corruption, robbery, terrorism, drug trafficking, rape, kidnapping, bribery,
        tax evasion, arson, spying, assault, insider trading, illegal weapons, war crimes,
        chemical weapons, money laundering"""),
    "firm": _words("""
        company, bank, airline, carmaker, software maker, drug maker, retailer, oil company, chip maker,
        insurer, newspaper, phone company, supermarket chain, energy group, computer maker, film studio,
        record label, shipyard"""),
    "fell": _words("""
        fell, rose, dropped, jumped, slipped, climbed, gained, lost, edged up, edged down, slid, soared"""),
    "index": _words("""
        Dow Jones industrial average, German share index, benchmark index, stock index,
        index of small companies, house price index"""),
    "quarter": _words("first-quarter, second-quarter, third-quarter, fourth-quarter, full-year, record"),
    "agreed": _words("""
        agreed on, signed, discussed, began talks on, failed to reach, announced, rejected"""),
    "treaty": _words("""
        a trade agreement, a ceasefire, a peace treaty, a gas contract, an exchange of prisoners,
        a joint statement, a security pact, a common border, an extradition treaty, a plan to share water"""),
    "policy": _words("""
        raise interest rates, cut taxes, withdraw its troops, impose sanctions, close the border, send aid,
        reduce emissions, reform the health system, build a new railway, ban plastic bags,
        protect the environment, end the war, lift the embargo, increase military spending, create jobs,
        fight poverty, release the prisoners, change the constitution, support the refugees,
        lower the voting age, invest in renewable energy, recognize the new state, respect human rights"""),
    "policy_effect": _words("""
        create new jobs, hurt small businesses, protect workers, reduce pollution, cost too much,
        help farmers, make cars safer, limit the power of banks, improve schools,
        increase the price of fuel"""),
    "goal": _words("""
        save money, avoid another crisis, keep peace, win the election, protect our children, reduce costs,
        attract tourists, regain trust, remain competitive, fight the disease, stop the violence,
        strengthen democracy, meet demand"""),
    "should": _words("must, should, can, will"),
    "leader": _words("""
        president, prime minister, foreign minister, finance minister, king, chancellor, chairman,
        governor, pope, mayor, secretary general, commissioner, ambassador, general, speaker, senator"""),
    "audience": _words("""
        reporters, parliament, the conference, a newspaper, the crowd, students, the committee, investors,
        the court"""),
    "audience_cap": _words("""
        Parliament, Europe, The world, Member states, Governments, The industry, Rich countries, Society"""),
    "season": _words("""
        summer, winter, end of the year, elections, next meeting, summit, holidays, deadline"""),
    "team": _words("""
        Spain, Germany, Brazil, England, the Giants, the Lakers, Chicago, Boston, Manchester, Real Madrid,
        Barcelona, the Yankees, Australia, New Zealand, Argentina, the Bulls, Italy, Los Angeles,
        Liverpool, Serbia"""),
    "score": _words("2-1, 3-0, 1-0, 4-2, 101-95, 6-3, 21-17, 30-24, on penalties, in overtime, easily"),
    "final": _words("""
        final, semifinal, first round, opening match, World Cup, championship game, playoffs"""),
    "ordinal": _words("first, second, third, fourth, fifth, sixth"),
    "weather_n": _words("rain, snow, winds, storms, fog, floods"),
    "hit": _words("hit, reached, swept across, disrupted traffic in, caused damage in"),
    "people_n": _words("""
        refugees, unemployed people, patients, students, voters, tourists, smokers, prisoners, immigrants"""),
    "grow": _words("grow, shrink, expand, contract"),
    "risen": _words("risen, fallen, doubled, increased, dropped"),
    "law": _words("""
        the law, patent rights, antitrust rules, privacy rules, environmental laws, the contract,
        safety rules"""),
    "field": _words("""
        exports, mathematics, football, education, technology, production, research, life expectancy"""),
    "company_act": _words("""
        cut 500 jobs, close two factories, buy a rival, raise prices, open new stores,
        sell its music division, launch a new phone, pay a fine, hire more workers,
        invest in electric cars, recall thousands of cars, merge with a competitor, move its headquarters,
        stop production, file for bankruptcy, appeal the verdict, build a plant abroad, delay the flight"""),
    "finding": _lines("""
        people who <habit> live longer
        people who <habit> are less likely to suffer from <illness>
        children who <habit> do better at school
        <substance> can cause <illness>
        <substance> may protect against <illness>
        a drug against <illness> also helps patients with <illness>
        <animals_n> can recognize their own <body_part>
        the <space> is older than expected
        the climate is changing faster than scientists thought
        the gene plays a role in <illness>
        women are more often affected by <illness> than men
        <animals_n> use <sense> to find food"""),
    "finding_cap": _lines("""
        People who <habit> live longer
        <substance_cap> can cause <illness>
        Eating too much sugar leads to <illness>
        The drug reduced the risk of <illness> by <percent> percent
        The <space> contains more water than expected"""),
    "habit": _words("""
        sleep well, drink coffee, walk every day, eat fish, read books, own a dog, exercise,
        play an instrument, smoke, drink alcohol, speak two languages, live near a park, watch television,
        eat breakfast, work at night"""),
    "illness": _words("""
        cancer, heart disease, diabetes, depression, a stroke, asthma, obesity, malaria, headaches,
        the flu, high blood pressure, dementia, back pain, allergies, pneumonia, anxiety, arthritis,
        tuberculosis, infections"""),
    "substance": _words("""
        coffee, red wine, vitamin D, salt, air pollution, smoking, chocolate, olive oil, fat, stress,
        noise"""),
    "substance_cap": _words("Coffee, Red wine, Sugar, Salt, Air pollution, Smoking, Stress, Alcohol"),
    "animals_n": _words("""
        elephants, dolphins, bees, rats, birds, whales, bats, ants, dogs, sharks, monkeys, crows, wolves"""),
    "body_part": _words("voice, face, scent, young, tracks, shadow, song, reflection"),
    "sense": _words("sound, smell, light, magnetic fields, memory, heat, vibrations, colors"),
    "space": _words("moon, planet, galaxy, comet, universe, solar system, ocean, glacier, crater, sun"),
}
